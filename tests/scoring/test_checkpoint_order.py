"""Checkpoints are put in the order of their updates, and none counts twice."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_models import make_corpus, random_rows, save_checkpoints

import pycat
from pycat.cli import main as cli
from pycat.errors import CheckpointError
from pycat.scoring.checkpoint_order import GIVEN, NAMES, RECORDED, in_training_order

STEPS = (100, 200, 1000)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[pycat.Corpus, Path]:
    """A corpus, and a folder with a Trainer's checkpoints of three updates."""
    folder = tmp_path_factory.mktemp("marian")
    src, tgt = (random_rows(12, 0, seed=seed) for seed in (1, 2))
    corpus = make_corpus(folder / "corpus", src, tgt, eos_id=0)
    for (path, _), step in zip(
        save_checkpoints("marian", folder / "run", STEPS), STEPS, strict=True
    ):
        (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return corpus, folder / "run"


def renamed(run: Path, folder: Path, names: Sequence[str], *, state: bool = False) -> list[Path]:
    """Copies of the run's checkpoints, in the order of their updates, by other names."""
    paths = []
    for step, name in zip(STEPS, names, strict=False):
        paths.append(folder / name)
        shutil.copytree(run / f"checkpoint-{step}", paths[-1])
        if not state:
            (paths[-1] / "trainer_state.json").unlink()
    return paths


@pytest.mark.parametrize(
    ("names", "state", "steps"),
    [
        (("epoch-1", "epoch-2", "epoch-10"), False, [1, 2, 10]),
        (("epoch1", "epoch2", "epoch10"), False, [1, 2, 10]),
        (("9", "10", "11"), False, [9, 10, 11]),
        (("epoch-1-step-5", "epoch-1-step-10", "epoch-2-step-15"), False, [5, 10, 15]),
        (("epoch-1-step-5", "epoch-1-step-10", "epoch-2-step-5"), False, [1, 2, 3]),
        (("checkpoint-9", "checkpoint-80", "checkpoint-700"), False, [9, 80, 700]),
        (("zz", "mid", "aa"), True, list(STEPS)),  # the record, whatever the name says
        (("checkpoint-3", "checkpoint-2", "checkpoint-1"), True, list(STEPS)),
        (("model.iter9", "model.iter80", "model.iter700"), False, [9, 80, 700]),
    ],
)
def test_any_order_given_is_that_of_training(
    saved: tuple[pycat.Corpus, Path],
    tmp_path: Path,
    names: Sequence[str],
    state: bool,
    steps: list[int],
) -> None:
    corpus, run = saved
    expected = pycat.score(corpus, run, device="cpu").nll
    paths = renamed(run, tmp_path, names, state=state)
    # As a shell's `*` sorts them; turned round; and as they are found in their folder.
    for given in (sorted(paths), paths[::-1], tmp_path):
        table = pycat.score(corpus, given, device="cpu")
        assert table.steps == steps
        np.testing.assert_array_equal(table.nll, expected)


def test_without_updates_the_order_given_is_taken_and_said(
    saved: tuple[pycat.Corpus, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, run = saved
    late, early, _ = renamed(run, tmp_path, ("late", "early", "x"))
    table = pycat.score(corpus, [late, early], device="cpu")
    assert table.steps == [1, 2]
    assert in_training_order([late, early], listed=True).by == GIVEN
    words = ["score", "--corpus", corpus.path, "--out", tmp_path / "s", "--device", "cpu"]
    assert cli.main([*map(str, words), "--checkpoints", str(late), str(early)]) == 0
    assert "in training order: late, early (as given" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"place among the 3 checkpoints of .* is not known"):
        pycat.score(corpus, tmp_path, device="cpu")


def test_the_order_is_printed(
    saved: tuple[pycat.Corpus, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, run = saved
    epochs = [
        str(path) for path in sorted(renamed(run, tmp_path, ("epoch-1", "epoch-2", "epoch-10")))
    ]
    words = ["score", "--format", "jsonl", "--corpus", str(corpus.path), "--device", "cpu"]
    assert cli.main([*words, "--checkpoints", str(run)]) == 0
    order = (
        "checkpoint-100 (update 100), checkpoint-200 (update 200), checkpoint-1000 (update 1,000)"
    )
    captured = capsys.readouterr()
    assert f"checkpoints in training order: {order}\n" in captured.err
    first = json.loads(captured.out.splitlines()[0])["nll"]
    assert cli.main([*words, "--checkpoints", *epochs]) == 0
    captured = capsys.readouterr()
    assert "epoch-1, epoch-2, epoch-10 (by the numbers in their names" in captured.err
    assert json.loads(captured.out.splitlines()[0])["nll"] == first


def test_a_checkpoint_that_counts_twice_is_refused(
    saved: tuple[pycat.Corpus, Path], tmp_path: Path
) -> None:
    corpus, run = saved
    paths = renamed(run, tmp_path / "run", [f"checkpoint-{step}" for step in STEPS], state=True)
    best = tmp_path / "run" / "checkpoint-best"
    shutil.copytree(paths[1], best)
    message = "checkpoint-best: is of update 200, as is checkpoint-200"
    for given in (tmp_path / "run", [*paths, best], [best, *paths]):
        with pytest.raises(CheckpointError, match=message):
            pycat.score(corpus, given, device="cpu")
    # Without a record of its updates, its weights tell; so for lines of scores.
    (best / "trainer_state.json").unlink()
    config = json.loads((best / "config.json").read_text())
    (best / "config.json").write_text(json.dumps({**config, "transformers_version": "4.0"}))
    copies = r"checkpoint-best: has the weights of .*checkpoint-200; .* list the others"
    with pytest.raises(CheckpointError, match=copies):
        pycat.score(corpus, [*paths, best], device="cpu")
    with pytest.raises(CheckpointError, match=copies):
        pycat.score_lines(corpus, [*paths, best], format="jsonl", out=tmp_path / "x", device="cpu")
    with pytest.raises(CheckpointError, match="checkpoint-best: its place among the 4"):
        pycat.score(corpus, tmp_path / "run", device="cpu")
    with pytest.raises(CheckpointError, match="checkpoint-best: records no updates"):
        pycat.score(corpus, [*paths[::-1], best], device="cpu")


@pytest.mark.parametrize(
    ("names", "by", "expected"),
    [
        (["model.iter10000.npz", "model.iter9000.npz"], RECORDED, [9000, 10000]),
        (["m_step_500.pt", "m_step_1000.pt"], RECORDED, [500, 1000]),
        (["checkpoint_2_900.pt", "checkpoint_10_4000.pt"], RECORDED, [900, 4000]),
        (["checkpoint10.pt", "checkpoint9.pt"], NAMES, [9, 10]),
        (["global_step20", "global_step3"], NAMES, [3, 20]),
        (["iter_0000010", "iter_0000002"], NAMES, [2, 10]),
        (["a1", "b2"], GIVEN, [1, 2]),
        (["epoch-2", "epoch-02"], GIVEN, [1, 2]),
    ],
)
def test_names_of_other_tools(names: list[str], by: str, expected: list[int]) -> None:
    order = in_training_order([Path(name) for name in names], listed=True)
    assert (order.by, list(order.steps)) == (by, expected)
