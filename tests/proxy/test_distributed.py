"""Training by several ranks under torch's launcher: the run of one process, and what is refused."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch._C._distributed_c10d import HashStore

import pycat
from pycat.cli.main import main
from pycat.errors import PycatError
from pycat.proxy import training
from pycat.proxy.packing import PackedBatches, rank_share
from pycat.proxy.run import Run
from pycat.proxy.stacked_step import Capacity, StackedStep
from pycat.proxy.stacked_transformer import StackedTransformer
from pycat.proxy.trainer import Arm
from pycat.proxy.transformer import ModelConfig, Transformer
from pycat.runtime.ranks import ALONE, Launch, Ranks, _meeting, launch, rank_device

FAST: dict[str, Any] = {
    "preset": "mini",
    "batch_tokens": 256,
    "warmup": 4,
    "dtype": "float32",
    "device": "cpu",
}
STEPS = (3, 6, 10)
TWO = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}

# What each rank prints of the calls that it makes one after another.
CALLS = """
import json, os, sys
import pycat

for options in json.loads(sys.argv[1]):
    # The other rank trains by other options.
    options.update(options.pop("on_rank_1", {}) if os.environ["RANK"] == "1" else {})
    options.pop("on_rank_1", None)
    try:
        said = pycat.train(**options).losses
    except pycat.PycatError as error:
        said = str(error)
    sys.stdout.write(f"{os.environ['RANK']} {json.dumps(said)}\\n")
"""

# The command line, in which a rank is killed at an update: rank 1 in the first launch, and rank 0
# in the second.
KILLS = """
import os, signal, sys
from pycat.cli.main import main
from pycat.proxy.stacked_step import StackedStep

kills = {"0": ("1", 5), "1": ("0", 5)}
rank, at = kills.get(os.environ["TORCHELASTIC_RESTART_COUNT"], ("", 0))
update, count = StackedStep.update, 0

def update_or_die(*args, **options):
    global count
    count += 1
    if os.environ["RANK"] == rank and count == at:
        os.kill(os.getpid(), signal.SIGKILL)
    update(*args, **options)

StackedStep.update = update_or_die
sys.exit(main())
"""


def torchrun(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Start two ranks of these words, which talk over the loopback interface alone."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1"]
    command += ["--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "--local-addr", "127.0.0.1", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def trained(corpus: pycat.Corpus, out: Path, **options: Any) -> dict[str, Any]:
    return {**FAST, "corpus": str(corpus.path), "out": str(out), **options}


class Launched(NamedTuple):
    """Runs that two ranks trained in one launch, and what each rank said of each call."""

    folder: Path
    said: list[list[Any]]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, toy_corpus: pycat.Corpus) -> Launched:
    folder = tmp_path_factory.mktemp("two")
    alike = trained(toy_corpus, folder / "two", checkpoint_steps=STEPS, dropout=0.0)
    other = {**alike, "label_smoothing": 0.2}
    unlike = {**alike, "out": str(folder / "none"), "on_rank_1": {"seed": 1}}
    dropping = trained(toy_corpus, folder / "whole", checkpoint_steps=STEPS)
    script = folder / "calls.py"
    script.write_text(CALLS)
    two = torchrun(folder, str(script), json.dumps([alike, alike, other, unlike, dropping]))
    assert two.returncode == 0, two.stderr
    said = [
        [json.loads(line[2:]) for line in two.stdout.splitlines() if line.startswith(f"{rank} ")]
        for rank in range(2)
    ]
    return Launched(folder, said)


@pytest.mark.timeout(600)
def test_two_ranks_train_what_one_process_does(
    tmp_path: Path, toy_corpus: pycat.Corpus, launched: Launched
) -> None:
    options = trained(toy_corpus, tmp_path / "one", checkpoint_steps=STEPS, dropout=0.0)
    one = pycat.train(**options)
    # Sums over two shares of a batch round otherwise than those over all of it.
    assert launched.said[0][0] == launched.said[1][0] == pytest.approx(one.losses, abs=1e-5)
    run = Run.open(launched.folder / "two")
    for ours, theirs in zip(run.checkpoints, one.checkpoints, strict=True):
        found, expected = (
            torch.cat([value.flatten() for value in weights.values()])
            for weights in (load_file(ours), load_file(theirs))
        )
        assert (found - expected).norm() < 5e-4 * expected.norm()
    for fact in ("num_tokens", "model_flops", "recipe"):
        assert run.manifest[fact] == one.manifest[fact]
    assert run.manifest["num_ranks"] == 2 and "num_ranks" not in one.manifest


def test_ranks_open_what_is_finished_and_are_told_what_failed(launched: Launched) -> None:
    first, second = launched.said
    assert first[1] == second[1] == first[0]
    assert "label_smoothing was 0.1, now 0.2" in first[2]
    assert second[2] == f"rank 1: rank 0 failed: {first[2]}"
    assert first[3] == second[3]
    assert first[3].startswith("rank 1 has seed 1, rank 0 has 0; start all ranks with the same")


@pytest.mark.timeout(600)
def test_killed_ranks_are_started_again_and_end_in_the_same_bytes(
    tmp_path: Path, toy_corpus: pycat.Corpus, launched: Launched
) -> None:
    script = tmp_path / "kills.py"
    script.write_text(KILLS)
    words = ["train", "--corpus", str(toy_corpus.path), "--preset", "mini", "--device", "cpu"]
    words += ["--checkpoint-steps", "3,6,10", "--batch-tokens", "256", "--dtype", "float32"]
    words += ["--warmup", "4", "--out", "cut"]
    cut = torchrun(tmp_path, "--max-restarts", "2", str(script), *words)
    assert cut.returncode == 0, cut.stderr
    assert cut.stderr.count("exitcode: -9") == 2

    # Rank 0 alone prints, and alone writes.
    assert cut.stdout.count("parameters; checkpoint") == 1
    names = sorted(path.name for path in (launched.folder / "whole").iterdir())
    assert names == ["proxy.json", *(f"step-{step:07}.safetensors" for step in STEPS)]
    assert names == sorted(path.name for path in (tmp_path / "cut").iterdir())
    for name in names[1:]:
        ours, theirs = tmp_path / "cut" / name, launched.folder / "whole" / name
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_batch_is_dealt_back_and_forth_from_its_longest_pair() -> None:
    lengths = np.array([5, 9, 7, 7, 1, 8, 2], dtype=np.int32)
    assert rank_share(lengths, 0, 1).tolist() == [0, 1, 2, 3, 4, 5, 6]
    # Descending: 9 (1), 8 (5), 7 (2), 7 (3), 5 (0), 2 (6), 1 (4).
    assert rank_share(lengths, 0, 2).tolist() == [1, 3, 0]
    assert rank_share(lengths, 1, 2).tolist() == [5, 2, 6, 4]
    shares = [rank_share(lengths, rank, 9).tolist() for rank in range(9)]
    assert shares == [[1], [5], [2], [3], [0], [6], [4], [], []]


def test_ranks_read_shares_of_the_batches_of_one_process(toy_corpus: pycat.Corpus) -> None:
    whole = PackedBatches(toy_corpus, 128, seed=3)
    shares = [PackedBatches(toy_corpus, 128, seed=3, ranks=Ranks(rank, 3)) for rank in range(3)]
    for _ in range(whole.num_batches + 2):
        batch, parts = next(whole), [next(share) for share in shares]
        ids = np.concatenate([part.pair_ids for part in parts])
        assert sorted(ids.tolist()) == sorted(batch.pair_ids.tolist())
        assert all(len(share.lengths[1]) == len(batch.pair_ids) for share in shares)
        assert sum(len(part.tgt_tokens) for part in parts) == shares[0].lengths[1].sum()
        assert whole.position == shares[2].position


def test_gradients_of_shares_add_up_to_those_of_the_batch(
    toy_corpus: pycat.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(toy_corpus.vocab_size, 32, 2, 64, 1))
    sums: list[torch.Tensor] = []
    monkeypatch.setattr(Ranks, "add_up", lambda self, flat: sums.append(flat.clone()))
    for ranks in (Ranks(0, 3), Ranks(1, 3), Ranks(2, 3), Ranks(0, 2)):
        shared = ranks.num_ranks == 3
        batches = PackedBatches(toy_corpus, 200, ranks=ranks if shared else ALONE)
        step = StackedStep(
            StackedTransformer([model], dropout=0.0),
            eos_id=toy_corpus.eos_id,
            label_smoothing=0.1,
            dtype=torch.float32,
            capacity=Capacity(200, 200, 99, 99),
            ranks=ranks,
        )
        step.update([next(batches)], 1e-3, num_counted=[int(batches.lengths[1].sum())])
    assert len({int(part.abs().sum() > 0) for part in sums}) == 1
    torch.testing.assert_close(sum(sums[:3]), sums[3], rtol=1e-4, atol=1e-7)


def test_a_rank_without_a_pair_adds_nothing(
    tmp_path: Path, toy_corpus: pycat.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Batches of one pair: the second of two ranks has none; here nobody else adds to it.
    monkeypatch.setattr(Ranks, "add_up", lambda self, tensor: None)
    monkeypatch.setattr(Ranks, "check_equal", lambda self, values: None)
    monkeypatch.setattr(Ranks, "from_first", lambda self, make: make())
    monkeypatch.setattr(training, "join_ranks", lambda started: Ranks(1, 2))
    monkeypatch.setattr(Ranks, "is_first", True)
    run = pycat.train(
        **{**trained(toy_corpus, tmp_path / "run"), "batch_tokens": 1},
        updates=3,
        checkpoints=1,
    )
    assert run.losses == (0.0,)
    initial = pycat.train(
        **trained(toy_corpus, tmp_path / "still", learning_rate=1e-30), updates=3, checkpoints=1
    )
    weights, expected = load_file(run.checkpoints[0]), load_file(initial.checkpoints[0])
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-20)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch(0, 1, 0)),
        ({"WORLD_SIZE": "1"}, Launch(0, 1, 0)),
        ({"RANK": "0"}, Launch(0, 1, 0)),
        ({"RANK": "5", "LOCAL_RANK": "1"}, Launch(0, 1, 0)),
        ({"WORLD_SIZE": ""}, Launch(0, 1, 0)),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, Launch(0, 1, 0)),
        (TWO, Launch(1, 2, 1)),
        ({**TWO, "LOCAL_RANK": "0"}, Launch(1, 2, 0)),
    ],
)
def test_who_a_process_is(environment: dict[str, str], expected: Launch) -> None:
    assert launch(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', expected a number"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2', expected a number"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE is 4, but RANK is not set; .* unset WORLD_SIZE"),
        ({**TWO, "MASTER_ADDR": ""}, "WORLD_SIZE is 2, but MASTER_ADDR is not set"),
        ({**TWO, "MASTER_PORT": ""}, "WORLD_SIZE is 2, but MASTER_PORT is not set"),
        ({**TWO, "RANK": "2"}, "RANK is 2, expected below WORLD_SIZE, which is 2"),
        ({**TWO, "RANK": "1.5"}, "RANK is '1.5', expected a number"),
        ({**TWO, "LOCAL_RANK": "x"}, "LOCAL_RANK is 'x', expected a number"),
    ],
)
def test_variables_that_contradict_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(PycatError, match=message):
        launch(environment)


def test_one_process_trains_whatever_a_launcher_left(
    tmp_path: Path, toy_corpus: pycat.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**TWO, "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    run = pycat.train(**trained(toy_corpus, tmp_path / "run"), updates=1, checkpoints=1)
    assert len(run.losses) == 1 and not dist.is_initialized()


def test_what_several_ranks_cannot_train_is_refused(
    tmp_path: Path, toy_corpus: pycat.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PycatError, match="dynamic pruning was asked for, which several ranks"):
        pycat.train(**trained(toy_corpus, tmp_path / "run", dynamic=0.5), updates=9)
    arms = [Arm(toy_corpus, seed, tmp_path / str(seed)) for seed in range(2)]
    with pytest.raises(PycatError, match="2 models are to be trained as one, which several ranks"):
        training.train_together(arms, checkpoint_steps=[2], **FAST)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("verb", ["tokenize", "measure", "score", "evaluate", "select", "prune"])
def test_other_verbs_are_refused_under_the_launcher(
    verb: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {
        "tokenize": ["--src", "a.en", "--tgt", "a.de", "--out", "x"],
        "measure": ["--corpus", "c", "--out", "x"],
        "score": ["--corpus", "c", "--checkpoints", "r", "--out", "x"],
        "evaluate": ["--selection", "s", "--out", "x"],
        "select": ["--scores", "s", "--out", "x", "--keep", "0.5"],
        "prune": ["--src", "a.en", "--tgt", "a.de", "--out", "x"],
    }[verb]
    monkeypatch.chdir(tmp_path)
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    assert main([verb, *words]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pycat: error: 'pycat {verb}' was started 2 times, by torchrun")
    assert "--on ray" in line
    assert not [*tmp_path.iterdir()]


def test_each_rank_takes_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    second = Launch(3, 4, 1)
    assert rank_device("cuda", second) == "cuda"  # none is here, as choose_device will say
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert rank_device("cpu", second) == "cpu"
    assert rank_device("auto", Launch()) == "auto"
    assert [rank_device(name, second) for name in ("auto", "cuda")] == ["cuda:1", "cuda:1"]
    assert taken == [1, 1]
    with pytest.raises(PycatError, match="device is 'cuda:0' for all 4 ranks"):
        rank_device("cuda:0", second)
    with pytest.raises(PycatError, match="LOCAL_RANK is 2, but this process sees 2 CUDA devices"):
        rank_device("auto", Launch(2, 4, 2))


def test_ranks_that_are_started_again_do_not_meet_those_that_died() -> None:
    store = HashStore()
    # What an earlier launch left: ranks that asked, and an answer to one of them.
    for rank in (1, 2):
        store.set(f"pycat/asks/{rank}", f"old {rank}")
    store.set("pycat/answer/old 1", "an old name")
    with ThreadPoolExecutor(3) as pool:
        # Rank 0 comes first, and answers the dead; rank 2 comes last.
        names = [pool.submit(_meeting, store, 0, 3)]
        while not store.check(["pycat/answer/old 2"]):
            time.sleep(0.01)
        names += [pool.submit(_meeting, store, rank, 3) for rank in (1, 2)]
        first, *others = [name.result() for name in names]
    assert others == [first, first] and first != "an old name"


def test_the_loss_of_another_rank_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensor: torch.Tensor) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1\nframe #0")

    monkeypatch.setattr(dist, "all_reduce", fail)
    with pytest.raises(PycatError) as caught:
        Ranks(1, 2).add_up(torch.zeros(1))
    assert str(caught.value).startswith("rank 1 of 2 lost the others (Connection closed by peer")
    assert "\n" not in str(caught.value) and "--max-restarts" in str(caught.value)
