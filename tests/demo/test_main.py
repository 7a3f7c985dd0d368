"""The demonstration, from text to its last lines, on a few invented pairs."""

from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import pytest
from helpers import write_lines
from invented_sentences import sentences

from pycat.cli import main as cli
from pycat.cli.prune import Prune
from pycat.demo import main as demo
from pycat.demo.spoiling import CLEAN, KINDS
from pycat.demo.text import SOURCES, DemoText, DemoTextError
from pycat.errors import PycatError
from pycat.evaluation.results import Evaluation
from pycat.selection.selection import Selection


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []

    def main(argv: list[str]) -> int:
        calls.append(argv)
        return 0

    monkeypatch.setattr(cli, "main", main)
    return calls


@pytest.fixture
def collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DemoText:
    """200 invented pairs and 10 held out in place of what is downloaded, and quick settings."""
    pairs = [pair[:2] for pair in sentences(210)]
    train_en, train_de = write_lines(tmp_path, pairs[:200], "train")
    test_en, test_de = write_lines(tmp_path, pairs[200:], "test")
    train_fr = tmp_path / "train.fr"
    train_fr.write_text("".join(f"Voici la {n}e fougère du jardin.\n" for n in range(200)), "utf-8")
    counts = dict.fromkeys((source.package for source in SOURCES), 5)
    text = DemoText(train_en, train_de, train_fr, test_en, test_de, 200, 10, counts)
    monkeypatch.setattr(demo, "collect", lambda out: text)
    monkeypatch.setattr(demo, "_TOKENIZE", {"vocab_size": 340})
    train = {"checkpoint_steps": [2, 4], "batch_tokens": 512, "device": "cpu"}
    monkeypatch.setattr(demo, "_TRAIN", train)
    evaluate = {"seeds": 1, "passes": 0.5, "batch_tokens": 256, "device": "cpu", "num_workers": 1}
    monkeypatch.setattr(demo, "_EVALUATE", evaluate)
    return text


def test_collected_text_is_spoilt_pruned_and_evaluated(
    collected: DemoText, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--out", str(tmp_path / "demo"), "--spoil", "30"]) == 0
    shown = capsys.readouterr().out
    work = tmp_path / "demo" / "spoilt-30"
    assert shown.index("pycat demo: prune real English-German text") == 0
    assert all(source.version in shown for source in SOURCES)
    assert "Apache-2.0" in shown
    assert "60 of the 200 pairs are spoilt" in shown
    labels = (tmp_path / "spoilt-30.labels").read_text("utf-8").split()
    assert Counter(labels) == {CLEAN: 140, **dict.fromkeys(KINDS, 12)}
    selection = Selection.open(work / "selection")
    kept = Counter(labels[line] for line in selection.lines)
    table = {words[0]: words[1:] for line in shown.splitlines() if (words := line.split())}
    for kind in (CLEAN, *KINDS):
        num_pairs, rules, noise, criterion, share = table[kind]
        assert int(num_pairs) == Counter(labels)[kind]
        assert float(share) == round(100 * kept[kind] / int(num_pairs), 1)
        assert sum(map(float, (rules, noise, criterion, share))) == pytest.approx(100, abs=0.2)
    assert table["copied"] == ["12", "100.0", "0.0", "0.0", "0.0"]
    evaluation = Evaluation.open(work / "evaluation")
    assert set(evaluation.arms) == {
        "full", "random", "selected", "oracle", "random-eighth", "random-quarter",
    }  # fmt: skip
    assert f"{evaluation.arms['oracle']['tests']['software']['nll']:.4f}" in shown
    gain = evaluation.arms["selected"]["tests"]["software"]["gain_on_random"]
    assert f"beside a random half: loss {abs(gain[0]):.3f}" in shown
    assert shown.endswith(f"report: {work}/report.html\n")
    assert "Evaluation" in (work / "report.html").read_text("utf-8")


def test_with_nothing_to_spoil_the_text_is_pruned_as_it_is(
    collected: DemoText,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stages: list[dict[str, Any]] = []

    def stop(**options: Any) -> NoReturn:
        stages.append(options)
        raise PycatError("far enough")

    monkeypatch.setattr(demo, "prune", stop)
    assert demo.main(["--out", str(tmp_path / "demo"), "--spoil", "0"]) == 1
    [options] = stages
    assert (options["src"], options["tgt"]) == (collected.train_en, collected.train_de)
    assert options["out"] == tmp_path / "demo" / "collected"
    printed = capsys.readouterr()
    assert "spoilt" not in printed.out
    assert printed.err == "pycat: error: far enough\n"


def test_a_share_to_spoil_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--out", str(tmp_path), "--spoil", "95"])


def test_own_text_goes_to_a_folder_of_its_own(
    tmp_path: Path, calls: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    demo.main(["--src", "a.en", "--tgt", "a.de", "--out", str(tmp_path)])
    [argv] = calls
    options = cli.parse(argv)
    assert isinstance(options, Prune)
    assert options.out == tmp_path / "own"
    assert not options.evaluate
    assert f"{tmp_path}/own/report.html" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--src", "a.en"])


def test_failure_to_collect_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(out: Path) -> DemoText:
        raise DemoTextError(f"{out}: no network")

    monkeypatch.setattr(demo, "collect", fail)
    assert demo.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"pycat: error: {tmp_path}/text: no network\n"
