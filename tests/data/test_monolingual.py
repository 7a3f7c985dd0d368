"""Corpora of one side."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import toy_pairs
from tiny_tokenizers import model_for, words

import pycat
from pycat.cli import main as cli
from pycat.errors import PycatError

LINES = [src for src, _ in toy_pairs(12)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A causal model, an encoder-decoder model, and text in which a tab stands."""
    for name, family in (("lm", "gpt2"), ("bart", "bart")):
        tokenizer = words("$A </s>" if name == "bart" else "<s> $A")
        for step in (1, 2):
            path = tmp_path / name / f"checkpoint-{step}"
            model_for(family, tokenizer, step).save_pretrained(path)
            tokenizer.save_pretrained(path)
    lines = [LINES[0] + "\t" + LINES[1], *LINES[2:]]
    (tmp_path / "text.en").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    return tmp_path


@pytest.fixture
def corpus(folder: Path) -> pycat.Corpus:
    return pycat.tokenize(
        monolingual=folder / "text.en",
        tokenizer=folder / "lm" / "checkpoint-1",
        out=folder / "corpus",
    )


def test_a_line_is_a_target(corpus: pycat.Corpus, folder: Path) -> None:
    tokenizer = words("$A")
    assert corpus.is_monolingual and corpus.languages == ("none", "en")
    assert corpus.num_src_tokens.tolist() == [1] * 11
    for row, line in enumerate([f"{LINES[0]} {LINES[1]}", *LINES[2:]]):
        src, tgt = corpus[row]
        assert src.tolist() == [tokenizer.bos_token_id]
        assert tgt.tolist() == [*tokenizer(line)["input_ids"], tokenizer.eos_token_id]
    # The text, its carriage returns and tabs are what they were; an open corpus knows its kind.
    opened = pycat.open_corpus(corpus.path)
    assert opened.sentences([0, 1]) == [("", f"{LINES[0]}\t{LINES[1]}"), ("", LINES[2])]
    encoded = opened.tokenizer.encode_pairs([b""], [LINES[2].encode()])
    assert encoded[1][0] == corpus[1][1].tolist()
    scores = pycat.score(corpus, folder / "lm", device="cpu", out=folder / "scores")
    kept = pycat.select(scores, keep=1.0, by="cat_var", rules="none", guard=0)
    written = pycat.export_opustrainer(kept, scores, out=folder / "export")
    exported = gzip.decompress((folder / "export" / "kept.tsv.gz").read_bytes())
    assert exported.decode().splitlines() == [f"{LINES[0]} {LINES[1]}", *LINES[2:]]
    assert "num_fields: 1\n" in written.read_text()
    kept.write_one(folder / "all.en")
    assert (folder / "all.en").read_bytes() == (folder / "text.en").read_bytes()
    with pytest.raises(PycatError, match="the text has one side; name one file"):
        kept.write_text(folder / "a", folder / "b")


def test_a_tokenizer_without_bos_begins_with_eos(folder: Path, tmp_path: Path) -> None:
    tokenizer = words("$A")
    tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path / "alone")
    with gzip.open(tmp_path / "text.gz", "wb") as file:
        file.write((folder / "text.en").read_bytes())
    corpus = pycat.tokenize(
        monolingual=tmp_path / "text.gz", tokenizer=tmp_path / "alone", out=tmp_path / "made"
    )
    assert corpus[0][0].tolist() == [tokenizer.eos_token_id]
    assert corpus.languages == ("none", "tgt")


def test_one_checkpoint_is_enough_for_perplexity_alone(corpus: pycat.Corpus, folder: Path) -> None:
    one = folder / "lm" / "checkpoint-1"
    table = pycat.score(corpus, one, device="cpu", out=folder / "one", dtype="auto")
    assert table.num_checkpoints == 1
    assert len(pycat.select(table, by="-ppl", rules="none", guard=0)) == 6
    for by in ("cat_var", "learnability", "-ppl+forgetting"):
        with pytest.raises(PycatError, match="between checkpoints, and the table has one"):
            pycat.select(table, by=by, rules="none", guard=0)
    with pytest.raises(PycatError, match="exact_keep is for a cut by cat_var"):
        pycat.score(corpus, one, device="cpu", exact_keep=0.5)
    pairs = pycat.tokenize(
        folder / "text.en", folder / "text.en", tokenizer=one, prompt="{src}", out=folder / "pairs"
    )
    with pytest.raises(PycatError, match="found 1 checkpoints, expected at least 2"):
        pycat.score(pairs, one, device="cpu")


Call = Callable[[pycat.Corpus, Path], Any]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda corpus, at: pycat.measure(corpus, out=at / "m"), "measures compare two sides"),
        (lambda corpus, at: pycat.select(scored(corpus, at)), "rules and guard compare two sides"),
        (
            lambda corpus, at: pycat.select(scored(corpus, at), rules="none"),
            "rules and guard compare two sides",
        ),
        (
            lambda corpus, at: pycat.score(corpus, at / "bart", device="cpu"),
            "is an encoder-decoder model|has tokenizer",
        ),
        (lambda corpus, at: tokenized(at, tokenizer=None), "for a causal model of Hugging Face"),
        (
            lambda corpus, at: tokenized(at, tokenizer=at / "bart" / "checkpoint-1"),
            r"the model \(bart\) has an encoder",
        ),
        (lambda corpus, at: tokenized(at, prompt="{src}"), "prompt belong to a source"),
        (lambda corpus, at: tokenized(at, tsv=at / "text.en"), "leave out the others"),
        (lambda corpus, at: tokenized(at, monolingual=at / "none.en"), "none.en"),
        (lambda corpus, at: tokenized(at, monolingual=parquet(at)), "is a Parquet file; expected"),
        (lambda corpus, at: tokenized(at, max_tokens=2), "gives text of at most 2 tokens"),
    ],
)
def test_what_takes_two_sides_is_refused(
    call: Call, message: str, corpus: pycat.Corpus, folder: Path
) -> None:
    with pytest.raises(PycatError, match=message):
        call(corpus, folder)


def scored(corpus: pycat.Corpus, folder: Path) -> pycat.ScoreTable:
    return pycat.score(corpus, folder / "lm", device="cpu")


def tokenized(folder: Path, **options: Any) -> pycat.Corpus:
    usual = {"monolingual": folder / "text.en", "tokenizer": folder / "lm" / "checkpoint-1"}
    return pycat.tokenize(**{**usual, **options}, out=folder / "other")


def parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"text": LINES}), folder / "text.parquet")
    return folder / "text.parquet"


def test_the_command_line_says_it_in_a_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tokenize", "--monolingual", str(folder / "text.en"), "--out", str(folder / "c")]
    assert cli.main(command) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
