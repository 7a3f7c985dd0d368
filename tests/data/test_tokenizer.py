"""The tokenizer: every text comes back, training repeats, and other files are refused."""

import errno
import io
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from helpers import FileSizeLimit, toy_pairs

import pycat.data.tokenizer
from pycat.data.tokenizer import Tokenizer, _limited, _sample, train_tokenizer
from pycat.errors import TokenizerError

LINES = [line for pair in toy_pairs(300) for line in pair]
RAW_LINES = [line.encode() for line in LINES]


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    out = tmp_path_factory.mktemp("tokenizer") / f"{request.param}.model"
    return train_tokenizer(RAW_LINES, out, vocab_size=330, model_type=request.param)


@pytest.mark.parametrize(
    "text",
    [
        *(LINES[0], LINES[1]),
        "Q! never seen: 42%",
        "emoji 😀 and 👩\u200d🚀",
        "漢字とかな, 한국어",
        "combining: e\u0301 n\u0303 x\u0301 ក្រុម",
        "Kiswahili: ng'ombe — “nukuu”",
        "ligature ﬁ, fullwidth Ａ, private \ue000, astral \U0001f9ff",
    ],
)
def test_text_comes_back_up_to_unicode_nfkc(tokenizer: Tokenizer, text: str) -> None:
    (row,) = tokenizer.encode([text])
    assert tokenizer.decode([row]) == [unicodedata.normalize("NFKC", text)]
    assert row.index(tokenizer.eos_id) == len(row) - 1
    assert all(0 <= token < tokenizer.vocab_size for token in row)


def test_unseen_characters_become_utf8_bytes_and_never_unk(tokenizer: Tokenizer) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    (row,) = tokenizer.encode(["漢"])
    assert [model.id_to_piece(token) for token in row] == [
        "▁",
        "<0xE6>",
        "<0xBC>",
        "<0xA2>",
        "</s>",
    ]


@pytest.mark.parametrize("blank", ["", " ", "\t \u3000", "\u2028", "\r"])
def test_a_blank_line_is_eos_alone(tokenizer: Tokenizer, blank: str) -> None:
    assert tokenizer.encode([blank]) == [[tokenizer.eos_id]]


def test_ids_follow_fairseq(tokenizer: Tokenizer) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    assert [model.id_to_piece(i) for i in range(4)] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (2, 330)


def test_threads_and_batching_change_nothing(tokenizer: Tokenizer) -> None:
    one_by_one = [tokenizer.encode([line])[0] for line in LINES]
    assert tokenizer.encode(LINES, num_threads=1) == one_by_one
    assert tokenizer.encode(LINES, num_threads=4) == one_by_one
    assert len({tuple(row) for row in one_by_one}) == len(set(LINES))
    assert tokenizer.decode(one_by_one) == LINES


def test_no_lines_and_no_rows(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([]) == []
    assert tokenizer.decode([]) == []
    assert tokenizer.decode([[], [tokenizer.eos_id]]) == ["", ""]


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_training_repeats_byte_for_byte(tmp_path: Path, model_type: str) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    train_tokenizer(RAW_LINES, first, vocab_size=330, model_type=model_type)
    train_tokenizer(iter(RAW_LINES), second, vocab_size=330, model_type=model_type)
    train_tokenizer(RAW_LINES[:200], other, vocab_size=330, model_type=model_type)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != other.read_bytes()
    assert Tokenizer(first).sha256 == Tokenizer(second).sha256 != Tokenizer(other).sha256


def test_unigram_settles_for_fewer_pieces(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(
        RAW_LINES, tmp_path / "small.model", vocab_size=8000, model_type="unigram"
    )
    assert 300 < tokenizer.vocab_size < 1000


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_a_vocabulary_too_small_is_refused(tmp_path: Path, model_type: str) -> None:
    out = tmp_path / "small.model"
    with pytest.raises(TokenizerError) as caught:
        train_tokenizer(RAW_LINES, out, vocab_size=100, model_type=model_type)
    message = str(caught.value)
    assert message.startswith(
        f"tokenizer: SentencePiece cannot train 100 {model_type} pieces on this text: Vocabulary "
        "size is smaller than required_chars. 100 vs 284."
    )
    assert message.endswith(" Pass another vocab_size or more text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_text_of_many_characters_fits_with_a_lower_coverage(
    model_type: str, tmp_path: Path
) -> None:
    # 40 frequent characters and 600 that stand once.
    frequent = "".join(chr(0x4E00 + i) for i in range(40))
    lines = [f"{frequent * 2}{chr(0x5000 + i)}".encode() for i in range(600)]
    out = tmp_path / "x.model"
    with pytest.raises(TokenizerError) as caught:
        train_tokenizer(
            *(lines, out), vocab_size=500, model_type=model_type, character_coverage=1.0
        )
    message = str(caught.value)
    assert "It takes more than " in message and "--character-coverage 0.99" in message
    assert "--character_coverage" not in message  # an option of SentencePiece, not of pycat
    tokenizer = train_tokenizer(
        *(lines, out), vocab_size=500, model_type=model_type, character_coverage=0.99
    )
    rows = tokenizer.encode(lines[:3])
    assert tokenizer.decode(rows) == [line.decode() for line in lines[:3]]  # nothing is unknown
    for coverage in (0.5, 1.1):
        with pytest.raises(TokenizerError, match=f"character_coverage is {coverage}; expected a"):
            train_tokenizer(
                *(lines, out), vocab_size=500, model_type="bpe", character_coverage=coverage
            )


def test_a_model_too_large_for_the_disk_is_named(
    tmp_path: Path, file_size_limit: FileSizeLimit
) -> None:
    out = tmp_path / "some.model"
    with file_size_limit(2048), pytest.raises(OSError) as caught:
        train_tokenizer(RAW_LINES, out, vocab_size=330, model_type="bpe")
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(out))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_model_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError) as caught:
        train_tokenizer(RAW_LINES, tmp_path / "x", vocab_size=330, model_type="wordpiece")
    assert str(caught.value) == ("model_type is 'wordpiece'; expected one of ('unigram', 'bpe')")


def test_files_that_are_no_model_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = tokenizer.path.read_bytes()
    no_model = "not a SentencePiece model; pass the .model file, not the .vocab"
    files: dict[str, Callable[[Path], object]] = {
        "missing": lambda path: None,
        "folder": Path.mkdir,
        "empty": Path.touch,
        "some.vocab": lambda path: path.write_text("<s>\t0\n<pad>\t0\n</s>\t0\n"),
        "cut": lambda path: path.write_bytes(model[: len(model) - 100]),
    }
    reasons = {
        "missing": "cannot be read (No such file or directory)",
        "folder": "cannot be read (Is a directory)",
    }
    for name, make in files.items():
        make(tmp_path / name)
        with pytest.raises(TokenizerError) as caught:
            Tokenizer(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {reasons.get(name, no_model)}"


def test_a_model_without_eos_is_refused(tmp_path: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        eos_id=-1,
        minloglevel=2,
    )
    path = tmp_path / "no-eos.model"
    path.write_bytes(model.getvalue())
    with pytest.raises(TokenizerError) as caught:
        Tokenizer(path)
    assert str(caught.value) == (
        f"{path}: the model has no end-of-sentence piece, which every sequence needs; train it "
        "with --eos_id"
    )


def test_lines_as_text_and_as_bytes_give_the_same_ids(tokenizer: Tokenizer) -> None:
    lines = [*LINES, "", " ", "NUL \0 inside", "漢字とかな", "\r", "a\u2028b"]
    assert tokenizer.encode([line.encode() for line in lines]) == tokenizer.encode(lines)


@pytest.mark.parametrize("size", [1, 10, 100])
def test_the_sample_is_uniform_and_repeats(size: int) -> None:
    lines = [b"%d" % i for i in range(1000)]
    assert _sample(lines, 1000, seed=0) == _sample(lines, 2000, seed=0) == lines
    assert _sample(lines, size, seed=1) == _sample(iter(lines), size, seed=1)
    assert _sample(lines, size, seed=1) != _sample(lines, size, seed=2)
    num_draws = 5000 // size
    drawn = [_sample(lines, size, seed) for seed in range(num_draws)]
    assert all(len(set(sample)) == size for sample in drawn)
    for first in range(0, 1000, 250):  # 1,250 of 5,000 expected; standard deviation 31 at most
        count = sum(first <= int(line) < first + 250 for sample in drawn for line in sample)
        assert abs(count - 1250) < 150


def test_a_sample_of_long_lines_is_thinned_in_order() -> None:
    lines = [b"%04d" % i for i in range(1000)]
    assert _limited(lines, 4000, seed=0) == lines
    thinned = _limited(lines, 400, seed=0)
    assert thinned == sorted(thinned) == _limited(lines, 400, seed=0)
    assert len(set(thinned)) == 100
    assert int(thinned[0]) < 100 and int(thinned[-1]) >= 900


def test_a_trainer_that_is_killed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "killed.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(pycat.data.tokenizer, "_TRAINING_FILE", script)
    with pytest.raises(TokenizerError) as caught:
        train_tokenizer(RAW_LINES, tmp_path / "some.model", vocab_size=330, model_type="bpe")
    assert str(caught.value) == (
        "tokenizer: the process that trains it was killed by signal 9, as where memory runs out; "
        "run the same command again, with more memory"
    )
    assert list(tmp_path.iterdir()) == [script]
