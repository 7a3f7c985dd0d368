"""Models of CTranslate2, Marian, fairseq and OpenNMT-py against CTranslate2's own scores."""

import argparse
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import write_lines
from numpy.typing import NDArray
from other_models import (
    SRC_VOCAB,
    VOCAB,
    WIDTH,
    convert_fairseq,
    convert_marian,
    ct2_nll,
    fairseq_state,
    pieces,
    sentencepiece_model,
    write_dictionary,
    write_fairseq,
    write_marian,
    write_open_nmt,
    write_yaml,
)

import pycat
from pycat.cli import main as cli
from pycat.data.vocabularies import read_pieces, read_vocabularies
from pycat.errors import CheckpointError, PycatError, TokenizerError
from pycat.scoring.loading import load_adapters
from pycat.scoring.torch_checkpoints import read_checkpoint
from pycat.scoring.torch_forward import TorchForward

Rows = list[list[str]]

# Values of model.bin in reduced precision are exact in float32, so one bound holds for all.
TOLERANCE = 1e-5


def random_pieces(seed: int, size: int, count: int = 12, first: int = 4) -> Rows:
    """Rows of 1 to 11 pieces; some are not in the vocabulary."""
    rng = np.random.default_rng(seed)
    return [
        [f"p{i}" for i in rng.integers(first, size + 3, rng.integers(1, 12))] for _ in range(count)
    ]


def write_text(folder: Path, src: Rows, tgt: Rows) -> tuple[Path, Path]:
    lines = [(" ".join(a), " ".join(b)) for a, b in zip(src, tgt, strict=True)]
    write_lines(folder, lines, "text")
    return folder / "text.en", folder / "text.de"


@pytest.fixture
def text(tmp_path: Path) -> tuple[Rows, Rows]:
    src, tgt = random_pieces(1, VOCAB), random_pieces(2, VOCAB)
    write_text(tmp_path, src, tgt)
    return src, tgt


def corpus_of(folder: Path, **how: Any) -> pycat.Corpus:
    return pycat.tokenize(folder / "text.en", folder / "text.de", out=folder / "corpus", **how)


def assert_scores(
    corpus: pycat.Corpus, checkpoints: list[Path], exact: list[list[NDArray[np.float64]]]
) -> None:
    """Both forward passes give these nll of each token, a list a checkpoint."""
    table = pycat.score(corpus, checkpoints, device="cpu")
    for k, tokens in enumerate(exact):
        assert table.num_tokens.tolist() == [len(nll) for nll in tokens]
        np.testing.assert_allclose(
            table.nll[:, k], [nll.sum() for nll in tokens], rtol=TOLERANCE, atol=TOLERANCE
        )
    models = load_adapters(checkpoints, corpus)
    forward = TorchForward(models, torch.device("cpu"), torch.float32, per_token=True)
    for batch in forward.run(corpus.batches(64, padded=True)):
        assert batch.nll_per_token is not None
        ends = batch.tgt_cu_seqlens
        for row, pair in enumerate(batch.pair_ids):
            for k, tokens in enumerate(exact):
                found = batch.nll_per_token[k, ends[row] : ends[row + 1]]
                np.testing.assert_allclose(found, tokens[pair], rtol=TOLERANCE, atol=TOLERANCE)


MARIAN: dict[str, dict[str, Any]] = {
    "post-norm": {},
    "swish": {"transformer_ffn_activation": "swish"},
    "gelu": {"transformer_ffn_activation": "gelu"},
    "pre-norm": {
        "transformer_preprocess": "n",
        "transformer_postprocess": "da",
        "transformer_postprocess_top": "n",
    },
    "norm of embeddings": {"transformer_postprocess_emb": "nd"},
    "learned positions": {"transformer_train_positions": True},
    "untied": {"tied": False},
    "two vocabularies": {"shared": False},
    "guided alignment": {"transformer_guided_alignment_layer": 1},
}


@pytest.mark.parametrize("settings", MARIAN.values(), ids=MARIAN)
def test_marian_models_score_as_ctranslate2(settings: dict[str, Any], tmp_path: Path) -> None:
    shared = settings.get("shared", True)
    src_words = pieces(VOCAB if shared else SRC_VOCAB)
    src, tgt = random_pieces(1, len(src_words)), random_pieces(2, VOCAB)
    write_text(tmp_path, src, tgt)
    vocabs = [write_yaml(tmp_path / "src.yml", src_words)]
    if not shared:
        vocabs.append(write_yaml(tmp_path / "tgt.yml", pieces(VOCAB)))
    models, exact = [], []
    for step in (900, 1000):
        path = tmp_path / f"model.iter{step}.npz"
        models.append(write_marian(path, seed=step, **settings))
        folder = convert_marian(models[-1], tmp_path / f"ct2-{step}", src_words, pieces(VOCAB))
        exact.append(ct2_nll(folder, src, tgt))
    corpus = corpus_of(tmp_path, vocabs=vocabs)
    assert_scores(corpus, models, exact)
    # The converted folders hold their vocabularies, and give the same.
    own = pycat.tokenize(
        tmp_path / "text.en",
        tmp_path / "text.de",
        out=tmp_path / "own",
        tokenizer=tmp_path / "ct2-900",
    )
    assert_scores(own, [tmp_path / "ct2-900", tmp_path / "ct2-1000"], exact)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8", "int8_float16", "int16"])
def test_folders_of_reduced_precision_score_as_ctranslate2(
    kind: str, text: tuple[Rows, Rows], tmp_path: Path
) -> None:
    folders = [
        convert_marian(
            write_marian(tmp_path / f"{seed}.npz", seed=seed, transformer_postprocess_emb="n"),
            tmp_path / f"ct2-{seed}",
            pieces(VOCAB),
            pieces(VOCAB),
            quantization=kind,
        )
        for seed in (0, 1)
    ]
    corpus = corpus_of(tmp_path, tokenizer=folders[0])
    assert_scores(corpus, folders, [ct2_nll(folder, *text) for folder in folders])


FAIRSEQ: dict[str, dict[str, Any]] = {
    "post-norm": {},
    "pre-norm, gelu": {
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "activation_fn": "gelu",
    },
    "learned positions": {"encoder_learned_pos": True, "no_scale_embedding": True},
    "norm of embeddings": {"layernorm_embedding": True, "activation_fn": "gelu_fast"},
    "two vocabularies": {"share_all_embeddings": False, "activation_fn": "swish"},
}


@pytest.mark.parametrize("settings", FAIRSEQ.values(), ids=FAIRSEQ)
def test_fairseq_models_score_as_ctranslate2(settings: dict[str, Any], tmp_path: Path) -> None:
    size = VOCAB if settings.get("share_all_embeddings", True) else SRC_VOCAB
    src, tgt = random_pieces(1, size), random_pieces(2, VOCAB)
    write_text(tmp_path, src, tgt)
    dictionaries = [
        write_dictionary(tmp_path / "dict.en.txt", size),
        write_dictionary(tmp_path / "dict.de.txt", VOCAB),
    ]
    models, exact = [], []
    for seed in (9, 10):
        models.append(tmp_path / f"checkpoint{seed}.pt")
        args = write_fairseq(models[-1], seed=seed, **settings)
        folder = convert_fairseq(args, seed, tmp_path / f"ct2-{seed}")
        exact.append(ct2_nll(folder, src, tgt))
    corpus = corpus_of(tmp_path, vocabs=dictionaries)
    assert_scores(corpus, models, exact)
    assert pycat.score(corpus, models, device="cpu").steps == [109, 110]


def test_open_nmt_models_score_as_ctranslate2(tmp_path: Path) -> None:
    from ctranslate2.converters import OpenNMTPyConverter

    src, tgt = random_pieces(1, SRC_VOCAB), random_pieces(2, VOCAB)
    write_text(tmp_path, src, tgt)
    models, exact = [], []
    for seed in (1, 2):
        models.append(write_open_nmt(tmp_path / f"model_step_{500 + seed}.pt", seed=seed))
        folder = tmp_path / f"ct2-{seed}"
        with torch.serialization.safe_globals([argparse.Namespace]):
            OpenNMTPyConverter(str(models[-1])).convert(str(folder))
        exact.append(ct2_nll(folder, src, tgt))
    corpus = corpus_of(tmp_path, tokenizer=tmp_path / "ct2-1")
    assert corpus.num_src_tokens.tolist() == [len(row) for row in src]  # no end of a sentence
    assert_scores(corpus, models, exact)
    assert pycat.score(corpus, models, device="cpu").steps == [501, 502]


def test_two_sentencepiece_vocabularies_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sentencepiece

    pairs = [(f"red {i} blue sky", f"rot {i} blau himmel über {i}") for i in range(40)]
    write_lines(tmp_path, pairs, "text")
    sides = [[src for src, _ in pairs], [tgt for _, tgt in pairs]]
    models = [
        sentencepiece_model(tmp_path / f"{name}.spm", lines, size)
        for name, lines, size in zip(("src", "tgt"), sides, (30, 36), strict=True)
    ]
    loaded = [sentencepiece.SentencePieceProcessor(model_file=str(path)) for path in models]
    words = [[each.id_to_piece(i) for i in range(each.vocab_size())] for each in loaded]
    path = tmp_path / "model.npz"
    write_marian(path, shared=False, vocab=len(words[1]))
    stored = dict(np.load(path))
    stored["encoder_Wemb"] = stored["encoder_Wemb"][: len(words[0])]
    np.savez(path, **stored)
    folder = convert_marian(path, tmp_path / "ct2", *words)
    rows = [each.encode(side, out_type=str) for each, side in zip(loaded, sides, strict=True)]
    exact = ct2_nll(folder, *rows)

    how = ["--src", str(tmp_path / "text.en"), "--tgt", str(tmp_path / "text.de")]
    command = ["score", "--format", "marian", *how, "--checkpoints"]
    assert cli.main([*command, str(path), "--vocabs", *map(str, models)]) == 0
    lines = capsys.readouterr().out.splitlines()
    np.testing.assert_allclose([float(line) for line in lines], [-n.sum() for n in exact], 1e-5)
    # The converted folder looks the pieces up by their names, and gives the same.
    assert cli.main([*command, str(folder), "--sentencepiece", *map(str, models)]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    # An OPUS-MT folder names its files itself.
    opus = tmp_path / "opus"
    opus.mkdir()
    path.rename(opus / "opus.npz")
    for name, side in zip(("source", "target"), (0, 1), strict=True):
        (opus / f"{name}.spm").write_bytes(models[side].read_bytes())
        write_yaml(opus / f"{name}.yml", words[side])
    (opus / "decoder.yml").write_text(
        "models:\n  - opus.npz\nvocabs:\n- source.yml\n- target.yml\n"
    )
    assert cli.main([*command, str(opus)]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    # fairseq's lines show the pieces of each side.
    command[2] = "fairseq"
    assert cli.main([*command, str(opus)]) == 0
    out = capsys.readouterr().out
    assert f"S-3\t{' '.join(rows[0][3])}\nT-3\t{' '.join(rows[1][3])}\n" in out
    assert "\trot 3 blau himmel über 3\n" in out


def test_checkpoints_of_a_folder_are_ordered_by_their_updates(
    text: tuple[Rows, Rows], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for step in (1000, 200, 90):
        write_marian(run / f"model.iter{step}.npz", seed=step)
    write_marian(run / "model.npz.best-bleu.npz", seed=7)
    corpus = corpus_of(tmp_path, vocabs=[write_yaml(tmp_path / "vocab.yml", pieces(VOCAB))])
    assert pycat.score(corpus, run, device="cpu").steps == [90, 200, 1000]
    given = sorted(run.glob("model.iter*.npz"))  # as a shell expands them
    assert pycat.score(corpus, given, device="cpu").steps == [90, 200, 1000]
    (run / "model.npz.best-bleu.npz.progress.yml").write_text("epochs: 3\nbatches: 850\n")
    best = [run / "model.npz.best-bleu.npz", run / "model.iter1000.npz"]
    assert pycat.score(corpus, best, device="cpu").steps == [850, 1000]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "recurrent": ({"type": "s2s"}, "is a recurrent model (type: s2s); expected type transformer"),
    "recurrent decoder": ({"transformer_decoder_autoreg": "rnn"}, "autoreg rnn, expected self-"),
    "average attention": (
        {"transformer_decoder_autoreg": "average-attention"},
        "--transformer-decoder-autoreg average-attention, expected self-attention",
    ),
    "right to left": ({"right_left": True}, "was trained with --right-left True"),
    "no positions": (
        {"transformer_disable_position_embeddings": True},
        "--transformer-disable-position-embeddings True",
    ),
    "deep feed-forward": ({"transformer_ffn_depth": 3}, "--transformer-ffn-depth 3, expected 2"),
    "tied layers": ({"transformer_tied_layers": [1, 1]}, "--transformer-tied-layers [1, 1]"),
    "factors": ({"vocabs": ["a.fsv", "b.fsv"]}, "has a factored vocabulary (.fsv)"),
    "odd norms": ({"transformer_postprocess": "dar"}, "CTranslate2 cannot convert this model"),
    "another part": (
        {"extra": {"encoder_l1_ffn_W3": np.zeros((2, 2), np.float32)}},
        "has encoder_l1_ffn_W3, a part of the model that pycat does not know",
    ),
    "more layers than options say": (
        {"extra": {"decoder_l3_ffn_W1": np.zeros((2, 2), np.float32)}},
        "has decoder_l3_ffn_W1, a part of the model",
    ),
    "not finite": (
        {"extra": {"Wemb": np.full((VOCAB, WIDTH), np.nan, np.float32)}},
        "has weights that are not finite",
    ),
    "another vocabulary": ({"vocab": 50}, "has 50 source and 50 target pieces, but"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_marian_models_cannot_be_scored(
    settings: dict[str, Any], message: str, text: tuple[Rows, Rows], tmp_path: Path
) -> None:
    path = write_marian(tmp_path / "model.npz", **settings)
    corpus = corpus_of(tmp_path, vocabs=[write_yaml(tmp_path / "vocab.yml", pieces(VOCAB))])
    with pytest.raises(CheckpointError) as refused:
        load_adapters(path, corpus, min_checkpoints=1)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)


def test_damaged_files_are_refused(text: tuple[Rows, Rows], tmp_path: Path) -> None:
    path = write_marian(tmp_path / "model.npz")
    folder = convert_marian(path, tmp_path / "ct2", pieces(VOCAB), pieces(VOCAB))
    corpus = corpus_of(tmp_path, tokenizer=folder)
    model = folder / "model.bin"
    whole = model.read_bytes()

    def refused(content: bytes, where: Path = model) -> str:
        where.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            load_adapters(where if where.suffix == ".npz" else folder, corpus, min_checkpoints=1)
        assert str(where.parent) in str(error.value)
        return str(error.value)

    assert "ends at" in refused(whole[:-3])
    assert "byte" in refused(whole[: len(whole) // 2])
    assert "cannot be read" in refused(b"")
    assert "3 bytes follow the last entry" in refused(whole + b"abc")
    assert "found version 9, expected 4 to 6" in refused(struct.pack("<I", 9) + whole[4:])
    assert "holds a WhisperSpec" in refused(
        whole.replace(b"TransformerSpec", b"WhisperSpec\0\0\0\0")
    )
    # Every header field, one byte at a time: an error of pycat's, or weights of the right names.
    for at in range(0, 200, 7):
        model.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            load_adapters(folder, corpus, min_checkpoints=1)
        except PycatError as error:
            assert str(folder) in str(error)
    model.write_bytes(whole)
    npz = path.read_bytes()
    assert "not a readable .npz" in refused(npz[: len(npz) // 2], path)
    assert "not a readable .npz" in refused(b"no zip", path)
    np.savez(path, Wemb=np.zeros(3))
    assert "holds no special:model.yml" in refused(path.read_bytes(), path)


def _with(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        content = torch.load(path, weights_only=False)
        change(content)
        torch.save(content, path)

    return rewrite


def _overwrite(path: Path) -> None:
    path.write_text("no checkpoint")


FAIRSEQ_REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "text": (_overwrite, "not a readable checkpoint"),
    "no model": (_with(lambda content: content.pop("model")), "holds no 'model'"),
    "no settings": (_with(lambda content: content.pop("args")), "holds neither args nor cfg"),
    "a convolution": (
        _with(
            lambda content: content["model"].update({"encoder.layers.0.conv.weight": torch.ones(1)})
        ),
        "has encoder.layers.0.conv.weight, a part of the model that pycat does not know",
    ),
    "another family": (
        _with(lambda content: content.update(model={"decoder.embed_tokens.weight": torch.ones(1)})),
        "expected an encoder-decoder Transformer of fairseq, found transformer",
    ),
    "adaptive softmax": (
        _with(lambda content: setattr(content["args"], "adaptive_softmax_cutoff", "10,20")),
        "was trained with adaptive_softmax_cutoff = 10,20",
    ),
    "unknown activation": (
        _with(lambda content: setattr(content["args"], "activation_fn", "tanh")),
        "activation_fn is tanh; expected one of relu",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), FAIRSEQ_REFUSED.values(), ids=FAIRSEQ_REFUSED)
def test_what_fairseq_models_cannot_be_scored(
    spoil: Callable[[Path], None], message: str, text: tuple[Rows, Rows], tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint1.pt"
    write_fairseq(path)
    spoil(path)
    corpus = corpus_of(tmp_path, vocabs=[write_dictionary(tmp_path / "dict.en.txt", VOCAB)])
    with pytest.raises(CheckpointError) as refused:
        load_adapters(path, corpus, min_checkpoints=1)
    assert message in str(refused.value)


class _Harmful:
    """A pickled object that would create a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self._path,)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    path, mark = tmp_path / "checkpoint1.pt", tmp_path / "mark"
    write_fairseq(path)
    _with(lambda content: content.update(extra=_Harmful(mark)))(path)
    assert "encoder.embed_tokens.weight" in read_checkpoint(path)["model"]
    assert not mark.exists()


def test_new_settings_and_old_names_of_fairseq(text: tuple[Rows, Rows], tmp_path: Path) -> None:
    """`cfg` in place of `args`; projections of queries, keys and values in one matrix."""
    args = write_fairseq(tmp_path / "checkpoint1.pt")
    state = fairseq_state(args, 0)
    for name in [name for name in state if "q_proj" in name]:
        parts = [state.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        state[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    content = {"args": None, "cfg": {"model": vars(args)}, "model": state}
    torch.save(content, tmp_path / "checkpoint2.pt")
    corpus = corpus_of(tmp_path, vocabs=[write_dictionary(tmp_path / "dict.en.txt", VOCAB)])
    files = [tmp_path / "checkpoint1.pt", tmp_path / "checkpoint2.pt"]
    old, new = (
        load_adapters(file, corpus, min_checkpoints=1)[0].module.state_dict() for file in files
    )
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_folders_with_parts_that_are_not_scored(text: tuple[Rows, Rows], tmp_path: Path) -> None:
    from ctranslate2.specs import TransformerSpec
    from ctranslate2.specs.model_spec import visit_spec

    corpus = corpus_of(tmp_path, vocabs=[write_yaml(tmp_path / "vocab.yml", pieces(VOCAB))])
    cases: dict[str, dict[str, Any]] = {
        "relative positions": {"with_relative_position": True},
        "gated feed-forward layers": {"ffn_glu": True},
        "RMS norms": {"rms_norm": True},
    }
    for part, how in cases.items():
        spec = TransformerSpec.from_config((1, 1), 2, **how)

        def fill(layer: Any, name: str, value: Any) -> None:
            if value is None:
                kind = name.rsplit("/", 1)[-1]
                rows = 3 * WIDTH if name.endswith("self_attention/linear_0/weight") else WIDTH
                shape = (WIDTH,) if kind in ("gamma", "beta") else (rows, WIDTH)
                setattr(layer, kind, np.ones(shape, np.float32))

        visit_spec(spec, fill)
        spec.register_source_vocabulary(pieces(WIDTH))
        spec.register_target_vocabulary(pieces(WIDTH))
        spec.config.add_source_eos = True
        spec.validate()
        folder = tmp_path / part.split()[0]
        folder.mkdir()
        spec.save(str(folder))
        with pytest.raises(CheckpointError, match=f"has {part}"):
            load_adapters(folder, corpus, min_checkpoints=1)


def test_vocabularies_keep_odd_pieces(tmp_path: Path) -> None:
    path = tmp_path / "vocab.yml"
    path.write_text(
        '"</s>": 0\n<unk>: 1\nnull: 2\n"a\\"b\\\\": 3\n\'it\'\'s\': 4\n":": 5\n1.0: 6\n'
        '? "long"\n: 7\n"\\x41\\u00e9\\t": 8\n~: 9\na: b: 10\n'
    )
    found = ["</s>", "<unk>", "null", 'a"b\\', "it's", ":", "1.0", "long", "A\u00e9\t", "~", "a: b"]
    assert read_pieces(path) == found
    (tmp_path / "vocab.json").write_text('{"</s>": 0, "<unk>": 1, "\u2028": 2}', "utf-8")
    assert read_pieces(tmp_path / "vocab.json") == ["</s>", "<unk>", "\u2028"]
    (tmp_path / "vocab.txt").write_text("</s>\n<unk>\n\u2028x\n", "utf-8")
    assert read_pieces(tmp_path / "vocab.txt") == ["</s>", "<unk>", "\u2028x"]
    tokenizer = read_vocabularies([path])
    assert tokenizer.encode(["it's  null zz :"]) == [[4, 2, 1, 5, 0]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.fsv", b"x", "a factored .fsv is not supported"),
        ("a.yml", b"a: 0\nb: 0\n", "id 0 of 'b' is negative or taken"),
        ("a.yml", b"a 0\n", "line 1 is 'a 0'; expected 'piece: id'"),
        ("a.json", b'{"a": "x"}', "expected a list of pieces"),
        ("a.json", b"{", "not valid JSON"),
        ("a.txt", b"\xff\n", "byte 0 is not UTF-8"),
        ("a.txt", b"a\nb\n", "has no </s> for the end of a sentence"),
        ("dict.de.txt", b"a b\n", "line 1 is 'a b'; expected a piece and its count"),
    ],
)
def test_bad_vocabularies_are_refused(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError) as refused:
        read_vocabularies([tmp_path / name])
    assert message in str(refused.value)
    assert name in str(refused.value)


def test_a_model_without_vocabulary_asks_for_one(
    text: tuple[Rows, Rows], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_marian(tmp_path / "model.npz")
    how = ["--src", str(tmp_path / "text.en"), "--tgt", str(tmp_path / "text.de")]
    assert cli.main(["score", "--format", "marian", "--checkpoints", str(path), *how]) == 1
    assert "holds no vocabulary; pass those of source and target (--vocabs)" in (
        capsys.readouterr().err
    )
