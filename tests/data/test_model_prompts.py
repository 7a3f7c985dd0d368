"""Prompts, language codes and two vocabularies of models, as transformers reads them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from helpers import toy_pairs, write_lines
from tiny_models import own_nll, transformers
from tiny_tokenizers import SPECIAL, lines, model_for, words

import pycat
from pycat.cli import main as cli
from pycat.data.hf_tokenizer import HuggingFaceTokenizer
from pycat.data.language_codes import language_of, near_codes
from pycat.errors import CheckpointError, TokenizerError

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

PAIRS = [pair for pair in toy_pairs(400) if len(pair[0].split()) < 7][:20]
PREFIX = "one two: "


def saved(folder: Path, tokenizer: Any, family: str, **settings: Any) -> Any:
    """A folder with tokenizer and model; the model."""
    model = model_for(family, tokenizer, 1, **settings)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return model


def score_lines(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert cli.main(["score", "--device", "cpu", *map(str, words)]) == 0
    return capsys.readouterr().out


def lines_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("after", ["", " two", "\n"])
def test_t5_reads_the_prompt_as_if_it_stood_in_the_file(
    after: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = words("$A </s>")
    model = saved(tmp_path / "t5", tokenizer, "t5 tied")
    src, tgt = write_lines(tmp_path, [*PAIRS, (" ", "eins")], "text")
    made = tokenizer(
        [PREFIX + src + after for src, _ in PAIRS], text_target=[tgt for _, tgt in PAIRS]
    )
    assert all(row[-1] == tokenizer.eos_token_id for row in made["input_ids"])
    exact = own_nll(model, made["input_ids"], made["labels"])
    prompt = f"{PREFIX}{{src}}{after}".replace("\n", "\\n")
    out = score_lines(
        capsys,
        *("--format", "jsonl", "--src", src, "--tgt", tgt, "--prompt", prompt),
        *("--checkpoints", tmp_path / "t5"),
    )
    *rows, blank = lines_of(out)
    assert blank["skipped"] == "empty source"
    np.testing.assert_allclose([row["nll"][0] for row in rows], exact, rtol=1e-5)


def test_a_corpus_remembers_that_its_prompt_is_the_encoders(tmp_path: Path) -> None:
    tokenizer = words("$A </s>")
    saved(tmp_path / "t5", tokenizer, "t5 tied")
    src, tgt = write_lines(tmp_path, PAIRS, "text")
    corpus = pycat.tokenize(
        *(src, tgt), out=tmp_path / "corpus", tokenizer=tmp_path / "t5", prompt=PREFIX + "{src}"
    )
    assert corpus.manifest["recipe"]["tokenizer"]["encoder_decoder"] is True
    assert corpus.template.src_tail == 1
    # Its own tokenizer, opened without the model's config.json, reads as the folder's does.
    rows = corpus.tokenizer.encode([src for src, _ in PAIRS])
    assert rows == [corpus[i][0].tolist() for i in range(len(PAIRS))]


def test_a_prompt_of_a_causal_model_is_refused_by_an_encoder_decoder(tmp_path: Path) -> None:
    tokenizer = words("$A </s>")
    saved(tmp_path / "t5", tokenizer, "t5 tied")
    saved(tmp_path / "gpt2", tokenizer, "gpt2")
    tokenizer.save_pretrained(tmp_path / "alone")  # no config.json: a prompt is for a causal model
    src, tgt = write_lines(tmp_path, PAIRS, "text")
    causal = pycat.tokenize(
        *(src, tgt), out=tmp_path / "1", tokenizer=tmp_path / "alone", prompt="{src}"
    )
    plain = pycat.tokenize(src, tgt, out=tmp_path / "2", tokenizer=tmp_path / "alone")
    for corpus, model, message in (
        (causal, "t5", r"is an encoder-decoder model \(t5\), but .*1 was tokenized as one text"),
        (plain, "gpt2", r"is a causal model \(gpt2\), but .*2 was tokenized as two texts"),
    ):
        with pytest.raises(CheckpointError, match=f"{message}.*--tokenizer .*{model}"):
            pycat.score_lines(corpus, tmp_path / model, format="jsonl", out=tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    "prompt", ["{src} = {tgt}", "{source}: {src}", "{src}\n{target} .", "{src}{reference}"]
)
@pytest.mark.parametrize("family", ["t5 tied", "gpt2"])
def test_text_in_the_target_or_after_it_is_refused(
    prompt: str, family: str, tmp_path: Path
) -> None:
    saved(tmp_path, words("$A </s>"), family)
    with pytest.raises(TokenizerError, match=r"no field but {src}, found {[a-z]+}: the target"):
        HuggingFaceTokenizer(tmp_path, prompt=prompt)


def pieces(folder: Path, extra: list[str]) -> tuple[dict[str, int], Path]:
    """A vocabulary with pieces that look like codes, and its SentencePiece model."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines()),
        model_prefix=str(folder / "pieces"),
        vocab_size=120,
        user_defined_symbols=extra,
        minloglevel=2,
        num_threads=1,
    )
    model = folder / "pieces.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    plain = [processor.id_to_piece(i) for i in range(3, len(processor))]
    return {piece: i for i, piece in enumerate([*SPECIAL, *plain])}, model


def coded(kind: str, folder: Path) -> Any:
    """A tokenizer of that kind, with ordinary pieces `en`, `de`, `fr` and `▁en`."""
    extra = ["en", "de", "fr", "▁en"]
    if kind == "m2m":
        vocabulary, model = pieces(folder, extra)
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        return transformers.M2M100Tokenizer(str(folder / "vocab.json"), str(model))
    chars = sorted({char for line in lines() for char in line if char != " "})
    names = [*SPECIAL, *extra, "▁", *chars, *("▁" + char for char in chars)]
    if kind == "nllb":
        merges = [("▁", char) for char in chars]
        return transformers.NllbTokenizer(
            vocab={name: i for i, name in enumerate(names)},
            merges=merges,
            additional_special_tokens=["eng_Latn", "deu_Latn", "fra_Latn", "zho_Hans"],
        )
    made = transformers.MBartTokenizer if kind == "mbart" else transformers.MBart50Tokenizer
    return made(vocab=[(name, -float(i > 3)) for i, name in enumerate(names)])


GOOD = {
    "nllb": ("eng_Latn", "deu_Latn"),
    "mbart": ("en_XX", "de_DE"),
    "mbart50": ("en_XX", "de_DE"),
    "m2m": ("en", "de"),
}
BAD = {
    "nllb": ["en", "<s>", "▁en", "<mask>", "", "eng-Latn"],
    "mbart": ["en", "fr", "</s>", "de"],
    "mbart50": ["en", "fr", "<unk>"],
    "m2m": ["__en__", "eng_Latn", "<s>", "▁en", "xx"],
}
NEAR = {
    ("nllb", "en"): "eng_Latn",
    ("nllb", "ger"): "deu_Latn",
    ("nllb", "zh-CN"): "zho_Hans",
    ("mbart", "de"): "de_DE",
    ("mbart50", "deu_Latn"): "de_DE",
    ("m2m", "eng_Latn"): "en",
}


@pytest.mark.parametrize("kind", GOOD)
def test_only_tokens_for_languages_are_codes(kind: str, tmp_path: Path) -> None:
    coded(kind, tmp_path).save_pretrained(tmp_path / kind)
    folder, (src, tgt) = tmp_path / kind, GOOD[kind]
    made = HuggingFaceTokenizer(folder, src_lang=src, tgt_lang=tgt)
    [row], _ = made.encode_pairs(["one"], ["eins"])
    code = f"__{src}__" if kind == "m2m" else src
    assert made.pieces(row).count(code) == 1
    wrong = [*BAD[kind], *(name for each, name in NEAR if each == kind)]
    for name in wrong:
        for codes in ((name, tgt), (src, name)):
            with pytest.raises(
                TokenizerError, match=r"has no language code|name them with"
            ) as info:
                HuggingFaceTokenizer(folder, src_lang=codes[0], tgt_lang=codes[1])
            if near := NEAR.get((kind, name)):
                assert f"did you mean {near}" in str(info.value), name


def test_a_language_added_to_the_vocabulary_is_a_code(tmp_path: Path) -> None:
    tokenizer = coded("nllb", tmp_path)
    tokenizer.add_tokens(["tyv_Cyrl"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "nllb")
    made = HuggingFaceTokenizer(tmp_path / "nllb", src_lang="tyv_Cyrl", tgt_lang="deu_Latn")
    [row], _ = made.encode_pairs(["one"], ["eins"])
    assert "tyv_Cyrl" in made.pieces(row)


def test_ids_of_m2m_100_lie_below_its_size(tmp_path: Path) -> None:
    tokenizer = coded("m2m", tmp_path)
    # The codes follow the pieces of the file.
    assert tokenizer.get_lang_id("zu") >= len(json.loads((tmp_path / "vocab.json").read_text()))
    tokenizer.save_pretrained(tmp_path / "m2m")
    src, tgt = write_lines(tmp_path, PAIRS, "text")
    corpus = pycat.tokenize(
        *(src, tgt),
        out=tmp_path / "corpus",
        tokenizer=tmp_path / "m2m",
        src_lang="zu",
        tgt_lang="zh",
    )
    corpus.verify()
    assert corpus.vocab_size == tokenizer.get_lang_id("zu") + 1


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("zh", "zh"),
        ("zh_Hans", "zh"),
        ("zho_Hans", "zh"),
        ("zh-CN", "zh"),
        ("cmn", "zh"),
        ("jpn", "ja"),
        ("ja_XX", "ja"),
        ("__de__", "de"),
        ("GER", "de"),
        ("khm_Khmr", "km"),
        ("pt_BR", "pt"),
        ("tyv_Cyrl", "tyv"),
    ],
)
def test_spellings_of_one_language(code: str, language: str) -> None:
    assert language_of(code) == language


def test_near_codes_are_of_the_same_language_first() -> None:
    codes = ["deu_Latn", "eng_Latn", "zho_Hans", "zho_Hant", "dan_Latn"]
    assert near_codes("zh", codes) == ["zho_Hans", "zho_Hant"]
    assert near_codes("dan_latn", codes)[0] == "dan_Latn"
    assert near_codes("english", codes) == [] or near_codes("english", codes)[0] == "eng_Latn"
    assert near_codes("qqq", codes) == []
    assert near_codes("no", ["nob_Latn", "nno_Latn", "noa_Latn"]) == ["nno_Latn", "nob_Latn"]
    assert near_codes("nb", ["__no__", "__da__"]) == ["__no__"]


def two_vocabularies(folder: Path, pairs: list[tuple[str, str]]) -> Any:
    """Marian's tokenizer with a vocabulary for each side; that of German is the larger one."""
    models, files = [], []
    for name, side in (("source", 0), ("target", 1)):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([pair[side] for pair in pairs]),
            model_prefix=str(folder / name),
            vocab_size=110,
            hard_vocab_limit=False,
            bos_id=-1,
            eos_id=0,
            unk_id=1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
        models.append(folder / f"{name}.model")
        model = sentencepiece.SentencePieceProcessor(model_file=str(models[-1]))
        vocabulary = {model.id_to_piece(i): i for i in range(len(model))}
        vocabulary["<pad>"] = len(model)
        files.append(folder / f"{name}.json")
        files[-1].write_text(json.dumps(vocabulary))
    return transformers.MarianTokenizer(
        source_spm=str(models[0]),
        target_spm=str(models[1]),
        vocab=str(files[0]),
        target_vocab_file=str(files[1]),
        separate_vocabs=True,
    )


@pytest.mark.parametrize("larger", ["source", "target"])
def test_marian_with_two_vocabularies(
    larger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip = -1 if larger == "source" else 1
    pairs = [pair if flip > 0 else (pair[1], pair[0]) for pair in PAIRS]
    tokenizer = two_vocabularies(
        tmp_path, [pair if flip > 0 else (pair[1], pair[0]) for pair in toy_pairs(400)]
    )
    sizes = len(tokenizer.encoder), len(tokenizer.target_encoder)
    assert (sizes[0] > sizes[1]) == (larger == "source")
    trained = []
    for step in (1, 2):
        model = model_for(
            "marian",
            tokenizer,
            step,
            vocab_size=sizes[0],
            decoder_vocab_size=sizes[1],
            share_encoder_decoder_embeddings=False,
            tie_word_embeddings=False,
            pad_token_id=min(sizes) - 1,  # of either vocabulary: it is never read here
            decoder_start_token_id=min(sizes) - 1,
        )
        tokenizer.save_pretrained(tmp_path / f"checkpoint-{step}")
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
        trained.append(model)
    src, tgt = write_lines(tmp_path, pairs, "text")
    corpus = pycat.tokenize(src, tgt, out=tmp_path / "corpus", tokenizer=tmp_path / "checkpoint-1")
    assert corpus.src_vocab_size == sizes[0]
    corpus.verify()
    made = tokenizer([src for src, _ in pairs], text_target=[tgt for _, tgt in pairs])
    table = pycat.score(corpus, [tmp_path / f"checkpoint-{step}" for step in (1, 2)], device="cpu")
    for k, model in enumerate(trained):
        exact = own_nll(model, made["input_ids"], made["labels"])
        np.testing.assert_allclose(table.nll[:, k], exact, rtol=1e-5)
    out = score_lines(
        capsys,
        *("--format", "fairseq", "--corpus", corpus.path),
        *("--checkpoints", tmp_path / "checkpoint-1"),
    )
    fields = dict(line.split("\t", 1) for line in out.splitlines())
    for i, (source, target) in enumerate(pairs):
        assert fields[f"S-{i}"].replace(" ", "").replace("▁", " ").strip() == source
        assert fields[f"D-{i}"].split("\t")[1] == target
    assert corpus.tokenizer.decode([corpus[0][0].tolist()], source=True) == [pairs[0][0]]
