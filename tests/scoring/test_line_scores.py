"""Lines as other scorers write them: the right number on the right line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers import toy_pairs, write_lines

import pycat
from pycat.cli import main as cli
from pycat.errors import OutputError, PycatError
from pycat.scoring import line_scores

SKIPPED = {1: "empty source", 4: "empty target", 7: "empty target"}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Eight lines, of which those in SKIPPED give no pair; the last is one of them."""
    pairs = toy_pairs(8)
    pairs[1] = ("", pairs[1][1])
    pairs[4] = (pairs[4][0], "")
    pairs[7] = (pairs[7][0], "")
    return write_lines(tmp_path_factory.mktemp("lines"), pairs, "few")


@pytest.fixture(scope="module")
def corpus(
    text: tuple[Path, Path], toy_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> pycat.Corpus:
    out = tmp_path_factory.mktemp("corpus") / "corpus"
    return pycat.tokenize(*text, out=out, tokenizer=toy_tokenizer)


@pytest.fixture(scope="module")
def run(toy_corpus: pycat.Corpus, tmp_path_factory: pytest.TempPathFactory) -> pycat.Run:
    out = tmp_path_factory.mktemp("proxy")
    return pycat.train(
        toy_corpus,
        out=out,
        checkpoint_steps=[1, 3],
        batch_tokens=256,
        device="cpu",
        dtype="float32",
    )


@pytest.fixture(scope="module")
def table(corpus: pycat.Corpus, run: pycat.Run) -> pycat.ScoreTable:
    return pycat.score(corpus, run.checkpoints, device="cpu")


def test_marian_lines_are_those_of_the_text(
    corpus: pycat.Corpus, run: pycat.Run, table: pycat.ScoreTable, tmp_path: Path
) -> None:
    [path] = pycat.score_lines(
        corpus, run.checkpoints[0], format="marian", out=tmp_path / "scores", device="cpu"
    )
    lines = path.read_text().splitlines()
    assert len(lines) == 8
    assert [i for i, line in enumerate(lines) if line == "nan"] == [*SKIPPED]
    scores = [float(line) for line in lines if line != "nan"]
    np.testing.assert_allclose(scores, -table.nll[:, 0], atol=6e-7)
    assert all(len(line.split(".")[1]) == 6 for line in lines if line != "nan")


def test_several_checkpoints_have_a_file_each(
    corpus: pycat.Corpus, run: pycat.Run, table: pycat.ScoreTable, tmp_path: Path
) -> None:
    out = tmp_path / "scores.txt"
    paths = pycat.score_lines(corpus, run.path, format="marian", out=out, device="cpu")
    assert [path.name for path in paths] == ["scores-1.txt", "scores-3.txt"]
    for k, path in enumerate(paths):
        scores = [float(line) for line in path.read_text().splitlines() if line != "nan"]
        np.testing.assert_allclose(scores, -table.nll[:, k], atol=6e-7)
    with pytest.raises(OutputError, match=r"scores-1.txt: this file exists; pass --overwrite"):
        pycat.score_lines(corpus, run.path, format="marian", out=out, device="cpu")
    pycat.score_lines(corpus, run.path, format="marian", out=out, device="cpu", overwrite=True)
    with pytest.raises(OutputError, match="2 checkpoints cannot share standard output"):
        pycat.score_lines(corpus, run.path, format="marian", device="cpu")


def test_fairseq_lines_are_in_base_2_and_agree_with_their_tokens(
    corpus: pycat.Corpus,
    run: pycat.Run,
    table: pycat.ScoreTable,
    text: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    [path] = pycat.score_lines(
        corpus, run.checkpoints[1], format="fairseq", out=tmp_path / "out", device="cpu"
    )
    lines = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
    kept = [i for i in range(8) if i not in SKIPPED]
    assert [row[0] for row in lines] == [f"{kind}-{i}" for i in kept for kind in "STHDP"]
    fields = {row[0]: row[1:] for row in lines}
    targets = text[1].read_text("utf-8").splitlines()
    for row, i in enumerate(kept):
        num_tokens = int(table.num_tokens[row])
        mean = float(fields[f"H-{i}"][0])
        assert mean == pytest.approx(-table.nll[row, 1] / num_tokens / math.log(2), rel=1e-6)
        scores = [float(score) for score in fields[f"P-{i}"][0].split(" ")]
        assert len(scores) == num_tokens
        assert np.mean(scores) == pytest.approx(mean, abs=1e-4)
        pieces = fields[f"H-{i}"][1]
        assert fields[f"T-{i}"] == [pieces]
        assert len(pieces.split(" ")) == num_tokens - 1
        assert pieces.replace(" ", "").replace("▁", " ").strip() == targets[i]
        assert fields[f"D-{i}"] == [fields[f"H-{i}"][0], targets[i]]


@pytest.mark.parametrize("part_pairs", [2, 65_536])
def test_jsonl_has_all_checkpoints_and_the_reason_of_each_gap(
    corpus: pycat.Corpus,
    run: pycat.Run,
    table: pycat.ScoreTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part_pairs: int,
) -> None:
    monkeypatch.setattr(line_scores, "_PART_PAIRS", part_pairs)
    [path] = pycat.score_lines(
        corpus, run.path, format="jsonl", out=tmp_path / "out", per_token=True, device="cpu"
    )
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["line"] for record in records] == [*range(1, 9)]
    gaps = {record["line"] - 1: record["skipped"] for record in records if record["pair"] is None}
    assert gaps == SKIPPED
    kept = [record for record in records if record["pair"] is not None]
    assert [record["pair"] for record in kept] == table.pair_ids.tolist()
    assert [record["num_tokens"] for record in kept] == table.num_tokens.tolist()
    np.testing.assert_allclose([record["nll"] for record in kept], table.nll, rtol=1e-6)
    for record in kept:
        assert [len(row) for row in record["token_nll"]] == [record["num_tokens"]] * 2
        np.testing.assert_allclose(np.sum(record["token_nll"], axis=1), record["nll"], rtol=1e-12)


def test_a_view_keeps_the_lines_of_the_whole(
    corpus: pycat.Corpus, run: pycat.Run, table: pycat.ScoreTable, tmp_path: Path
) -> None:
    view = corpus.subset(np.array([1, 3]))
    [path] = pycat.score_lines(view, run.path, format="jsonl", out=tmp_path / "out", device="cpu")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(records) == 8
    kept = [record for record in records if record["pair"] is not None]
    assert [(record["pair"], record["line"] - 1) for record in kept] == [
        (pair, int(corpus.lines[pair])) for pair in (1, 3)
    ]
    np.testing.assert_allclose([row["nll"] for row in kept], table.nll[[1, 3]], rtol=1e-5)
    assert records[0]["skipped"] == "not in this view of the corpus"


def test_options_that_do_not_fit_are_refused(corpus: pycat.Corpus, run: pycat.Run) -> None:
    with pytest.raises(PycatError, match="format is 'csv'; expected one of fairseq, marian, jsonl"):
        pycat.score_lines(corpus, run.path, format="csv")
    with pytest.raises(PycatError, match="marian-scorer writes no scores of tokens"):
        pycat.score_lines(corpus, run.path, format="marian", per_token=True)
    with pytest.raises(pycat.CheckpointError, match=r"found 0 checkpoints, expected at least 1$"):
        pycat.score_lines(corpus, [], format="marian")


def test_the_command_scores_text_in_one_line(
    corpus: pycat.Corpus,
    run: pycat.Run,
    table: pycat.ScoreTable,
    text: tuple[Path, Path],
    toy_tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def call(*words: object) -> tuple[int, str, str]:
        status = cli.main(["score", "--device", "cpu", *map(str, words)])
        return status, *capsys.readouterr()

    first = ("--checkpoints", run.checkpoints[0], "--format", "marian")
    files = ("--src", text[0], "--tgt", text[1])
    status, out, _ = call(*first, *files, "--tokenizer", toy_tokenizer)
    assert status == 0
    scores = [float(line) for line in out.splitlines() if line != "nan"]
    assert len(out.splitlines()) == 8
    np.testing.assert_allclose(scores, -table.nll[:, 0], atol=6e-7)
    assert call(*first, "--corpus", corpus.path)[:2] == (0, out)
    status, out, _ = call(*first, "--corpus", corpus.path, "--out", tmp_path / "scores")
    assert (status, out) == (0, f"{tmp_path / 'scores'}\n")
    for words, message in (
        ((*first, *files), "has no tokenizer beside the weights; pass --tokenizer"),
        ((*first, *files, "--corpus", corpus.path), "tokenized already; leave out --src, --tgt"),
        (("--checkpoints", run.path), "a table of scores needs --corpus"),
        (("--checkpoints", run.path, *files), "a table of scores needs --corpus"),
    ):
        status, out, error = call(*words)
        assert (status, out) == (1, "")
        assert message in error
