"""What OpusTrainer gets of a selection: data sets, stages and weights."""

import gzip
import io
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import MakeScores, ToyText, plain_select, toy_pairs

import pycat
from pycat.cli.main import main
from pycat.errors import OutputError, PycatError
from pycat.runtime.output import write_manifest
from pycat.selection.export import config

LINES = ["\t".join(pair) for pair in toy_pairs(40)]


@pytest.fixture
def table(
    toy_text: ToyText, toy_tokenizer: Path, make_scores: MakeScores, tmp_path: Path
) -> pycat.ScoreTable:
    """40 pairs; `nll_1` is the number of the pair."""
    corpus = pycat.tokenize(*toy_text(40), out=tmp_path / "corpus", tokenizer=toy_tokenizer)
    nll = np.ones((40, 2))
    nll[:, 1] = np.arange(40)
    return make_scores(corpus, nll, tmp_path / "scores")


def lines_of(folder: Path, name: str) -> list[str]:
    return gzip.decompress((folder / f"{name}.tsv.gz").read_bytes()).decode().splitlines()


def weights_of(folder: Path) -> list[float]:
    return [*map(float, (folder / "weights.txt").read_text().split())]


def test_kept_and_rest_become_data_sets_with_stages(
    table: pycat.ScoreTable, tmp_path: Path
) -> None:
    kept = plain_select(table, by="nll_1", keep=0.25, drop={"nll_1": 0.5}, out=tmp_path / "s")
    assert kept.pair_ids.tolist() == [*range(10, 20)]
    written = pycat.export_opustrainer(kept, table, out=tmp_path / "out")
    assert lines_of(tmp_path / "out", "kept") == LINES[10:20]
    # Those that the drop left out are neither.
    assert lines_of(tmp_path / "out", "rest") == LINES[:10]
    assert weights_of(tmp_path / "out") == pytest.approx([*((np.arange(20) + 1) / 20), *([0] * 20)])
    text = written.read_text()
    assert f'kept: "{tmp_path / "out" / "kept.tsv.gz"}"\n' in text
    # Half of what is mixed was kept: half and half, then three quarters, then kept alone.
    assert text.index("- kept 0.5000") < text.index("- kept 0.7500") < text.index("- kept 1.0")
    with pytest.raises(PycatError, match="made from another score table"):
        pycat.export_opustrainer(kept, out=tmp_path / "other")


def test_files_that_are_as_they_would_be_stay(table: pycat.ScoreTable, tmp_path: Path) -> None:
    args = ["--scores", str(tmp_path / "scores"), "--by", "nll_1", "--rules", "none"]
    args += ["--guard", "0", "--export", "opustrainer", "--out", str(tmp_path / "s")]
    assert main(["select", *args]) == 0
    folder = tmp_path / "s-opustrainer"
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(stamps) == 4
    (folder / "rest.tsv.gz").unlink()  # as where the first was interrupted
    assert main(["select", *args]) == 0
    again = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    del stamps["rest.tsv.gz"]
    assert lines_of(folder, "rest") == LINES[:20]
    assert again.items() > stamps.items()
    other = plain_select(table, by="nll_1", keep=0.25)
    with pytest.raises(OutputError, match=r"kept\.tsv\.gz: this file exists; pass --overwrite"):
        pycat.export_opustrainer(other, table, out=folder)
    assert lines_of(folder, "kept") == LINES[20:]
    pycat.export_opustrainer(other, table, out=folder, overwrite=True)
    assert lines_of(folder, "kept") == LINES[30:]
    (folder / "kept.tsv.gz").unlink()
    (folder / "kept.tsv.gz").symlink_to(other.corpus().text().paths[0])
    with pytest.raises(OutputError, match=r"kept\.tsv\.gz: this is the text being pruned"):
        pycat.export_opustrainer(other, table, out=folder, overwrite=True)


@pytest.mark.parametrize(
    "options",
    [
        {"part": "bottom"},
        {"part": "middle"},
        {"by": "sql: nll_1 // 20", "part": "middle", "keep": 0.7},
        {"strata": "third"},
        {"strata": "score", "num_strata": 4},
        {"mix": 0.5},
        {"mix": 0.5, "strata": "third"},
        {"by": "sql: 1"},
        {"unit": "tokens", "part": "bottom"},
    ],
)
def test_every_kept_pair_weighs_more_than_the_rest(
    table: pycat.ScoreTable, tmp_path: Path, options: dict[str, Any]
) -> None:
    table.add("third", np.arange(40) // 14)
    selection = plain_select(table, **{"by": "nll_1", "keep": 0.5, **options})
    pycat.export_opustrainer(selection, table, out=tmp_path / "out")
    kept, rest = (lines_of(tmp_path / "out", name) for name in ("kept", "rest"))
    weights = dict(zip(LINES, weights_of(tmp_path / "out"), strict=True))
    assert kept == [LINES[line] for line in selection.lines]
    assert min(weights[line] for line in kept) > max(weights[line] for line in rest) > 0
    assert max(weights.values()) <= 1
    ranked = {*kept, *rest}
    assert all(weights[line] == 0 for line in LINES if line not in ranked)


def test_the_lowest_of_the_bottom_weigh_most(table: pycat.ScoreTable, tmp_path: Path) -> None:
    selection = plain_select(table, by="nll_1", part="bottom")
    pycat.export_opustrainer(selection, table, out=tmp_path / "out")
    assert weights_of(tmp_path / "out") == pytest.approx([(40 - i) / 40 for i in range(40)])


def test_a_selection_without_rest_has_one_stage(table: pycat.ScoreTable, tmp_path: Path) -> None:
    everything = plain_select(table, by="nll_1", keep=1.0)
    written = pycat.export_opustrainer(everything, table, out=tmp_path / "out")
    assert lines_of(tmp_path / "out", "kept") == LINES
    assert lines_of(tmp_path / "out", "rest") == []
    assert weights_of(tmp_path / "out") == pytest.approx([(i + 1) / 40 for i in range(40)])
    assert "  rest: " not in written.read_text()
    assert "stages:\n  - only_kept\n\nonly_kept:" in written.read_text()


def mixes(text: str) -> list[tuple[float, float]]:
    """Weights of kept and rest of the stages that have both."""
    found = [float(line.split()[2]) for line in text.splitlines() if line.startswith("  - kept ")]
    other = [float(line.split()[2]) for line in text.splitlines() if line.startswith("  - rest ")]
    return [*zip(found, other, strict=False)]


def test_no_weight_rounds_to_no_line(tmp_path: Path) -> None:
    def of(num_kept: int, num_rest: int) -> list[tuple[float, float]]:
        return mixes(config(tmp_path / "kept", tmp_path / "rest", num_kept, num_rest))

    assert of(3, 1) == [(0.75, 0.25), (0.875, 0.125)]
    assert of(999_999, 1) == [(0.98, 0.02), (0.98, 0.02)]
    assert of(1, 999_999) == [(0.02, 0.98), (0.5, 0.5)]
    for kept, rest in [*of(97, 3), *of(99, 1), *of(1, 99)]:
        assert min(int(100 * kept), int(100 * rest)) >= 2


@pytest.mark.parametrize("keep", [0.025, 0.5, 0.975, 1.0])
def test_opustrainer_goes_through_all_stages(
    table: pycat.ScoreTable, tmp_path: Path, keep: float
) -> None:
    trainer = pytest.importorskip(
        "opustrainer.trainer", reason="OpusTrainer is not installed: pip install opustrainer"
    )
    selection = plain_select(table, by="nll_1", keep=keep)
    written = pycat.export_opustrainer(selection, table, out=tmp_path / "out")
    curriculum = trainer.CurriculumLoader().load(written.read_text(), basepath=str(written.parent))

    class Unshuffled(trainer.DatasetReader):  # type: ignore[misc, name-defined]
        """Reads without a process that shuffles."""

        def _open(self) -> None:
            [file] = self.dataset.files
            self._fh = io.StringIO(gzip.decompress(Path(file).read_bytes()).decode())
            self.line = 0
            self._read_line()

    run = trainer.Trainer(curriculum, reader=Unshuffled)
    stages: list[str] = []
    for batch in islice(run.run(batch_size=100), 12):
        assert {line.rstrip("\n") for line in batch} <= {*LINES}
        if run.stage.name not in stages:
            stages.append(run.stage.name)
    run.close()
    everything = ["only_kept"] if keep == 1 else ["everything", "mostly_kept", "only_kept"]
    assert stages == everything


def test_a_side_stays_one_column_of_one_line(
    make_scores: MakeScores, toy_tokenizer: Path, tmp_path: Path
) -> None:
    (tmp_path / "src").write_bytes(b"a tab\there\nplain\n")
    (tmp_path / "tgt").write_bytes(b"plain\na return\rhere\n")
    corpus = pycat.tokenize(
        tmp_path / "src", tmp_path / "tgt", out=tmp_path / "c", tokenizer=toy_tokenizer
    )
    scores = make_scores(corpus, np.ones((len(corpus), 2)))
    pycat.export_opustrainer(
        plain_select(scores, by="length", keep=1.0), scores, out=tmp_path / "o"
    )
    assert lines_of(tmp_path / "o", "kept") == ["a tab here\tplain", "plain\ta return here"]


def test_another_choice_than_the_recorded_one_is_refused(
    table: pycat.ScoreTable, tmp_path: Path
) -> None:
    plain_select(table, by="nll_1", keep=0.25, out=tmp_path / "s")
    selection = pycat.Selection.open(tmp_path / "s")
    recipe = {**selection.manifest["recipe"], "keep": 0.5}
    write_manifest(tmp_path / "s" / "selection.json", {**selection.manifest, "recipe": recipe})
    with pytest.raises(PycatError) as caught:
        pycat.export_opustrainer(tmp_path / "s", table, out=tmp_path / "out")
    assert str(caught.value) == (
        f"{tmp_path / 's'}: its recipe keeps 20 pairs now, without 0 of those in the selection; "
        "expected its 10 pairs; run 'pycat select' again with --overwrite"
    )
    assert not (tmp_path / "out").exists()
    table.add("other", np.arange(40.0))
    selection = plain_select(table, by="other")
    recipe = {**selection.manifest["recipe"], "hashes": {"by": "0"}}
    changed = pycat.Selection(
        selection.pair_ids,
        selection.lines,
        {**selection.manifest, "recipe": recipe},
        selection.corpus_path,
    )
    with pytest.raises(PycatError, match=r"holds other values now \(by\), expected those of"):
        pycat.export_opustrainer(changed, table, out=tmp_path / "out")
