"""The demonstration passes text and options to `prune`."""

from pathlib import Path

import pytest
from helpers import ToyText

from pycat.cli import main as cli
from pycat.cli.prune import Prune
from pycat.demo import main as demo
from pycat.demo.text import SOURCES, DemoText, DemoTextError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []

    def main(argv: list[str]) -> int:
        calls.append(argv)
        return 0

    monkeypatch.setattr(cli, "main", main)
    return calls


def test_collected_text_is_pruned_and_evaluated(
    toy_text: ToyText,
    tmp_path: Path,
    calls: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    src, tgt = toy_text(50)
    test_src, test_tgt = toy_text(5, name="test")
    counts = dict.fromkeys((source.package for source in SOURCES), 5)
    text = DemoText(src, tgt, test_src, test_tgt, 50, 5, counts)
    monkeypatch.setattr(demo, "collect", lambda out: text)
    assert demo.main(["--out", str(tmp_path / "demo")]) == 0
    [argv] = calls
    options = cli.parse(argv)
    assert isinstance(options, Prune)
    assert (options.text.src, options.text.tgt) == (src, tgt)
    assert options.test == {"software": (str(test_src), str(test_tgt))}
    assert options.evaluate
    shown = capsys.readouterr().out
    assert f"{options.out}/report.html" in shown
    assert shown.index("pycat demo: prune real English-German text") == 0
    assert all(source.version in shown for source in SOURCES)
    assert "Apache-2.0" in shown


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
