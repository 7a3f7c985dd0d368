"""Text tokenized by a model's own tokenizer scores as the model's own loss says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from helpers import toy_pairs, write_lines
from tiny_models import own_nll, transformers
from tiny_tokenizers import SPECIAL, fast, lines, model_for, words
from tokenizers import Tokenizer as Rules
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import pycat
from pycat.data.hf_tokenizer import HuggingFaceTokenizer
from pycat.errors import CheckpointError, PycatError, TokenizerError

# Marian's tokenizer warns that a package is missing; scores do not depend on it.
pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

PAIRS = [pair for pair in toy_pairs(400) if len(pair[0].split()) < 7][:30]
PROMPT = "Translate English to German: {src}\n"


def bytes_bpe() -> Any:
    """A byte-level tokenizer as of GPT-2 and Llama 3, with `<s>` before the text."""
    rules = Rules(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    rules.train_from_iterator([*lines(), PROMPT], trainer)
    rules.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return fast(rules)


def metaspace_bpe() -> Any:
    """A tokenizer as of Llama 2: spaces as ▁, one before the text, bytes where no piece fits."""
    rules = Rules(models.BPE(unk_token="<unk>", byte_fallback=True))
    rules.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=[*SPECIAL, *byte_tokens])
    rules.train_from_iterator([*lines(), PROMPT.replace("\n", " ")], trainer)
    rules.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return fast(rules)


def pieces_model(folder: Path) -> Path:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines()),
        model_prefix=str(folder / "pieces"),
        vocab_size=120,
        bos_id=-1,
        eos_id=0,
        unk_id=1,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return folder / "pieces.model"


def marian(folder: Path) -> Any:
    """Marian's slow tokenizer: a SentencePiece model for each side, and one vocabulary."""
    model = pieces_model(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    vocabulary = {pieces.id_to_piece(i): i for i in range(len(pieces))}
    vocabulary["<pad>"] = len(pieces)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(model.read_bytes())
    return transformers.MarianTokenizer(
        *(str(folder / name) for name in ("source.spm", "target.spm", "vocab.json"))
    )


def nllb(folder: Path) -> Any:
    vocabulary = {token: i for i, token in enumerate(SPECIAL)}
    for char in sorted({char for line in lines() for char in line if char != " "}):
        for piece in (char, "▁" + char):
            vocabulary[piece] = len(vocabulary)
    vocabulary["▁"] = len(vocabulary)
    merges = [("▁", piece[1]) for piece in vocabulary if piece[0] == "▁" and len(piece) == 2]
    codes = ["eng_Latn", "deu_Latn"]
    return transformers.NllbTokenizer(
        vocab=vocabulary, merges=merges, additional_special_tokens=codes
    )


def mbart(folder: Path) -> Any:
    chars = sorted({char for line in lines() for char in line if char != " "})
    scores = [(token, 0.0) for token in SPECIAL]
    scores += [(piece, -1.0) for char in chars for piece in (char, "▁" + char)]
    return transformers.MBartTokenizer(vocab=[*scores, ("▁", -2.0)])


# Tokenizer, model family, options of tokenize, and tokens around a target in the labels.
CASES: dict[str, tuple[Callable[[Path], Any], str, dict[str, Any], list[str], list[str]]] = {
    "t5": (lambda _: words("$A </s>"), "t5 tied", {}, [], []),
    "bart": (lambda _: words("<s> $A </s>"), "bart", {}, ["<s>"], []),
    "marian": (marian, "marian", {}, [], []),
    "nllb": (
        nllb,
        "m2m-100",
        {"src_lang": "eng_Latn", "tgt_lang": "deu_Latn"},
        ["deu_Latn"],
        [],
    ),
    "mbart": (mbart, "mbart", {"src_lang": "en_XX", "tgt_lang": "de_DE"}, [], ["de_DE"]),
    "gpt2": (lambda _: bytes_bpe(), "gpt2", {"prompt": PROMPT}, [], []),
    "llama": (lambda _: metaspace_bpe(), "llama", {"prompt": PROMPT}, [], []),
}


@pytest.mark.parametrize("name", CASES)
def test_scores_of_text_equal_the_models_own_loss(name: str, tmp_path: Path) -> None:
    make, family, options, before, after = CASES[name]
    (tmp_path / "made").mkdir()
    tokenizer = make(tmp_path / "made")
    trained = [model_for(family, tokenizer, seed) for seed in (1, 2)]
    for step, model in enumerate(trained):
        tokenizer.save_pretrained(tmp_path / f"checkpoint-{step}")
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
    src, tgt = write_lines(tmp_path, [*PAIRS, ("one", ""), (" ", "eins")], "text")
    corpus = pycat.tokenize(
        src, tgt, out=tmp_path / "corpus", tokenizer=tmp_path / "checkpoint-0", **options
    )
    assert corpus.manifest["skipped"] == {"empty source": 1, "empty target": 1}
    if "src_lang" in options:
        tokenizer.src_lang, tokenizer.tgt_lang = options["src_lang"], options["tgt_lang"]
    sources, targets = expected_rows(tokenizer, options.get("prompt"))
    ids = [tokenizer.convert_tokens_to_ids(tokens) for tokens in (before, after)]
    end = [len(row) - len(ids[1]) for row in targets]
    assert all(row[: len(ids[0])] == ids[0] for row in targets)
    assert all(row[last:] == ids[1] for row, last in zip(targets, end, strict=True))
    targets = [row[len(ids[0]) : last] for row, last in zip(targets, end, strict=True)]
    for i in range(len(PAIRS)):
        assert [side.tolist() for side in corpus[i]] == [sources[i], targets[i]]
    assert all(row[-1] == corpus.eos_id for row in targets)
    table = pycat.score(corpus, tmp_path, device="cpu", batch_tokens=100)
    for k, model in enumerate(trained):
        exact = own_nll(model, sources, targets, *ids)
        worst = float(np.max(np.abs(table.nll[:, k] / exact - 1)))
        print(f"{name}: {worst:.1e}")
        assert worst < 1e-5


def expected_rows(tokenizer: Any, prompt: str | None) -> tuple[list[list[int]], list[list[int]]]:
    """Sources and whole labels as a training script makes them."""
    if prompt is None:
        made = tokenizer([src for src, _ in PAIRS], text_target=[tgt for _, tgt in PAIRS])
        return made["input_ids"], made["labels"]
    sources, targets = [], []
    for src, tgt in PAIRS:
        # The prompt ends with a line end, which merges with nothing here.
        first = tokenizer(prompt.replace("{src}", src))["input_ids"]
        whole = tokenizer(prompt.replace("{src}", src) + tgt)["input_ids"]
        assert whole[: len(first)] == first
        sources.append(first)
        targets.append([*whole[len(first) :], tokenizer.eos_token_id])
    return sources, targets


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and no model."""
    folder = tmp_path_factory.mktemp("words")
    words("$A </s>").save_pretrained(folder)
    return folder


def test_the_corpus_keeps_its_tokenizer_and_opens_again(saved: Path, tmp_path: Path) -> None:
    src, tgt = write_lines(tmp_path, PAIRS, "text")
    corpus = pycat.tokenize(src, tgt, out=tmp_path / "corpus", tokenizer=saved)
    assert corpus.manifest["recipe"]["tokenizer"] == {"sha256": corpus.tokenizer.sha256}
    assert corpus.tokenizer.sha256 == HuggingFaceTokenizer(saved).sha256
    assert corpus.tokenizer.path == corpus.path / "tokenizer"
    rows = corpus.tokenizer.encode([src for src, _ in PAIRS])
    assert [corpus[i][0].tolist() for i in range(len(PAIRS))] == rows
    assert corpus.tokenizer.decode(rows) == [src for src, _ in PAIRS]
    assert corpus.tokenizer.pieces(rows[0]) == [*PAIRS[0][0].split(), "</s>"]
    again = pycat.tokenize(src, tgt, out=tmp_path / "corpus", tokenizer=corpus.path / "tokenizer")
    assert again.manifest == corpus.manifest
    with pytest.raises(pycat.OutputError, match="tokenizer was"):
        pycat.tokenize(src, tgt, out=tmp_path / "corpus", vocab_size=340)
    other = pycat.tokenize(src, tgt, out=tmp_path / "corpus", vocab_size=340, overwrite=True)
    assert other.tokenizer.path.name == "tokenizer.model"


def test_tokens_do_not_depend_on_threads(saved: Path, tmp_path: Path) -> None:
    src, tgt = write_lines(tmp_path, PAIRS * 200, "text")
    one, three = (
        pycat.tokenize(src, tgt, out=tmp_path / f"{n}", tokenizer=saved, num_threads=n)
        for n in (1, 3)
    )
    assert one.id == three.id


def test_the_template_is_part_of_a_corpus_identity(tmp_path: Path) -> None:
    tokenizer = nllb(tmp_path)
    tokenizer.save_pretrained(tmp_path / "nllb")
    src, tgt = write_lines(tmp_path, PAIRS, "text")
    ids = set()
    for i, codes in enumerate((("eng_Latn", "deu_Latn"), ("eng_Latn", "eng_Latn"))):
        corpus = pycat.tokenize(
            *(src, tgt),
            out=tmp_path / f"corpus{i}",
            tokenizer=tmp_path / "nllb",
            src_lang=codes[0],
            tgt_lang=codes[1],
        )
        assert corpus.tokenizer.encode(["one"]) == [corpus[0:1].tokenizer.encode(["one"])[0]]
        ids.add(corpus.id)
    assert len(ids) == 2


def test_a_token_across_the_end_of_the_prompt_is_the_targets(tmp_path: Path) -> None:
    bytes_bpe().save_pretrained(tmp_path)
    # The space before the target is one token with its first word.
    tokenizer = HuggingFaceTokenizer(tmp_path, prompt="{src} = ")
    sources, targets = tokenizer.encode_pairs(["one {x}"], ["thousand two"])
    assert "".join(tokenizer.pieces(sources[0])) == "<s>oneĠ{x}Ġ="
    assert "".join(tokenizer.pieces(targets[0])) == "ĠthousandĠtwo</s>"


def test_options_that_do_not_go_with_the_tokenizer_are_refused(
    saved: Path, tmp_path: Path, toy_tokenizer: Path
) -> None:
    nllb(tmp_path).save_pretrained(tmp_path / "nllb")
    bytes_bpe().save_pretrained(tmp_path / "gpt2")
    (tmp_path / "gpt2" / "config.json").write_text('{"model_type": "gpt2"}')
    marian(tmp_path).save_pretrained(tmp_path / "marian")
    rules = Rules(models.WordLevel({"<unk>": 0, "one": 1}, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=rules, unk_token="<unk>").save_pretrained(
        tmp_path / "endless"
    )
    (tmp_path / "nothing").mkdir()
    src, tgt = write_lines(tmp_path, PAIRS, "text")
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (saved, {"src_lang": "en", "tgt_lang": "de"}, "has no language codes; leave"),
        (tmp_path / "nllb", {}, "NllbTokenizer puts language codes into its sequences; name them"),
        (
            tmp_path / "nllb",
            {"src_lang": "eng_Latn", "tgt_lang": "german"},
            "has no language code 'german'; codes look like .*_Latn",
        ),
        (tmp_path / "gpt2", {}, r"the model \(gpt2\) is causal.*pass prompt"),
        (tmp_path / "gpt2", {"prompt": "Translate:"}, r"expected \{src\} in it"),
        (tmp_path / "marian", {"prompt": "{src}"}, "MarianTokenizer does not say which characters"),
        (tmp_path / "endless", {}, "has no end-of-sentence token"),
        (tmp_path / "nothing", {}, "nothing: transformers cannot load a tokenizer"),
    ]
    for folder, options, message in cases:
        with pytest.raises(TokenizerError, match=message):
            pycat.tokenize(src, tgt, out=tmp_path / "corpus", tokenizer=folder, **options)
    for given in (None, toy_tokenizer):
        with pytest.raises(PycatError, match="go with the tokenizer of a Hugging Face model"):
            pycat.tokenize(src, tgt, out=tmp_path / "corpus", tokenizer=given, prompt="{src}")


def test_a_corpus_of_another_tokenizer_is_refused(
    saved: Path, toy_corpus: pycat.Corpus, tmp_path: Path
) -> None:
    tokenizer = words("$A </s>")
    for step in (1, 2):
        model_for("t5 tied", tokenizer, step).save_pretrained(tmp_path / f"checkpoint-{step}")
        tokenizer.save_pretrained(tmp_path / f"checkpoint-{step}")
    src, tgt = write_lines(tmp_path, PAIRS, "text")
    corpus = pycat.tokenize(src, tgt, out=tmp_path / "corpus", tokenizer=saved)
    assert len(pycat.score(corpus, tmp_path, device="cpu")) == len(PAIRS)
    message = r"checkpoint-1: has tokenizer \w{12}… beside the weights, but .*--tokenizer"
    with pytest.raises(CheckpointError, match=message):
        pycat.score(toy_corpus, tmp_path, device="cpu")
    # A corpus of ids alone does not say which tokenizer made them.
    prefixes = corpus.path / "src", corpus.path / "tgt"
    ids = pycat.open_corpus(prefixes, vocab_size=corpus.vocab_size, eos_id=corpus.eos_id)
    np.testing.assert_array_equal(
        pycat.score(ids, tmp_path, device="cpu").nll,
        pycat.score(corpus, tmp_path, device="cpu").nll,
    )


def test_verifying_knows_where_a_source_ends(tmp_path: Path) -> None:
    mbart(tmp_path).save_pretrained(tmp_path / "mbart")
    src, tgt = write_lines(tmp_path, PAIRS, "text")
    corpus = pycat.tokenize(
        *(src, tgt),
        out=tmp_path / "corpus",
        tokenizer=tmp_path / "mbart",
        src_lang="en_XX",
        tgt_lang="de_DE",
    )
    assert corpus[0][0][-1] != corpus.eos_id
    corpus.verify()
