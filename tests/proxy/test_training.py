"""Training: schedules, resuming, reproducing, and that a model can learn at all."""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import FileSizeLimit
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tolerances import NLL_PER_TOKEN

from pycat.data.corpus import Corpus
from pycat.data.tokenizing import tokenize
from pycat.errors import CheckpointError, CorpusError, OutputError, PycatError
from pycat.evaluation.beam_search import translate
from pycat.proxy import trainer
from pycat.proxy.checkpoint import load_model, read_info
from pycat.proxy.packing import PackedBatches
from pycat.proxy.run import Run
from pycat.proxy.run_state import write_state
from pycat.proxy.schedules import checkpoint_steps_of, rate_share
from pycat.proxy.stacked_step import StackedStep
from pycat.proxy.trainer import Arm, Trainer
from pycat.proxy.training import count_updates_done, train, train_together
from pycat.proxy.transformer import PRESETS, ModelConfig, Transformer
from pycat.runtime.output import write_manifest

FAST: dict[str, Any] = {
    "preset": "tiny",
    "batch_tokens": 128,
    "device": "cpu",
    "dtype": "float32",
}


@contextmanager
def stopping_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, training is interrupted after that update, just behind a state."""
    save = Trainer._save_states

    def save_then_stop(trainer: Trainer) -> None:
        save(trainer)
        if trainer.step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_STATE_EVERY_S", 0.0)
        patch.setattr(Trainer, "_save_states", save_then_stop)
        yield


def test_a_model_overfits_twenty_pairs_and_translates_them_back(
    tmp_path: Path, toy_text: Callable[..., tuple[Path, Path]]
) -> None:
    src, tgt = toy_text(20)
    corpus = tokenize(src, tgt, out=tmp_path / "corpus", vocab_size=320)
    run = train(
        corpus,
        out=tmp_path / "run",
        updates=200,
        batch_tokens=int(corpus.num_tokens.sum()),
        checkpoints=1,
        warmup=100,
        label_smoothing=0.0,
        dropout=0.0,
        device="cpu",
    )
    assert run.losses[-1] < 2.0
    model = load_model(read_info(run.checkpoints[-1]), torch.device("cpu"))
    sources = src.read_text("utf-8").splitlines()
    references = tgt.read_text("utf-8").splitlines()
    assert translate(model, corpus.tokenizer, sources, beam=5) == references
    assert translate(model, corpus.tokenizer, sources, beam=1, batch_tokens=1) == references
    assert translate(model, corpus.tokenizer, ["", sources[0]]) == ["", references[0]]


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_an_interrupted_run_ends_in_the_same_bytes(
    tmp_path: Path, toy_corpus: Corpus, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    options = {**FAST, "checkpoint_steps": [3, 7, 9], "optimizer": optimizer}
    whole = train(toy_corpus, out=tmp_path / "whole", **options)
    with stopping_at(5, monkeypatch), pytest.raises(KeyboardInterrupt):
        train(toy_corpus, out=tmp_path / "cut", **options)
    with pytest.raises(OutputError, match="incomplete"):
        Run.open(tmp_path / "cut")
    cut = train(toy_corpus, out=tmp_path / "cut", **options)
    assert cut.losses == whole.losses
    for one, other in zip(whole.checkpoints, cut.checkpoints, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert cut.manifest["num_tokens"] == whole.manifest["num_tokens"]
    assert not (tmp_path / "cut" / "state.pt").exists()


def test_a_killed_process_loses_at_most_what_followed_its_last_state(
    tmp_path: Path, toy_corpus: Corpus
) -> None:
    def command(out: str) -> list[str]:
        return [
            *(sys.executable, "-m", "pycat", "train", "--corpus", str(toy_corpus.path)),
            *("--out", str(tmp_path / out), "--checkpoint-steps", "2,12,14"),
            *("--preset", "tiny", "--batch-tokens", "128", "--device", "cpu"),
            *("--dtype", "float32"),
        ]

    subprocess.run(command("whole"), cwd=tmp_path, check=True, capture_output=True)
    with subprocess.Popen(command("cut"), cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "cut" / "state.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    first = (tmp_path / "cut" / "step-0000002.safetensors").stat().st_mtime_ns
    assert not json.loads((tmp_path / "cut" / "proxy.json").read_text())["complete"]
    subprocess.run(command("cut"), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "cut" / "step-0000002.safetensors").stat().st_mtime_ns == first
    for name in ("step-0000002", "step-0000012", "step-0000014"):
        whole = (tmp_path / "whole" / f"{name}.safetensors").read_bytes()
        assert (tmp_path / "cut" / f"{name}.safetensors").read_bytes() == whole


def test_ctrl_c_ends_with_status_130_and_work_that_goes_on(
    tmp_path: Path, toy_corpus: Corpus
) -> None:
    command = [
        *(sys.executable, "-m", "pycat", "train", "--corpus", str(toy_corpus.path)),
        *("--out", str(tmp_path / "cut"), "--checkpoint-steps", "1,5000"),
        *("--batch-tokens", "128", "--device", "cpu", "--dtype", "float32"),
    ]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "cut" / "state.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message == "pycat: interrupted; the same command goes on from here\n"
    assert not list((tmp_path / "cut").glob(".*.tmp"))


def test_a_full_disk_is_an_oserror_and_the_run_goes_on(
    tmp_path: Path, toy_corpus: Corpus, file_size_limit: FileSizeLimit
) -> None:
    out = tmp_path / "run"
    for num_bytes, name in ((1_000_000, "step-0000002.safetensors"), (30_000_000, "state.pt")):
        with file_size_limit(num_bytes), pytest.raises(OSError, match="File too large") as caught:
            train(toy_corpus, out=out, checkpoint_steps=[2, 4], **FAST)
        assert caught.value.filename == str(out / name)
    assert not list(out.glob(".*.tmp"))
    assert train(toy_corpus, out=out, checkpoint_steps=[2, 4], **FAST).steps == (2, 4)


def test_a_damaged_state_is_named(tmp_path: Path, toy_corpus: Corpus) -> None:
    out = tmp_path / "run"
    train(toy_corpus, out=out, checkpoint_steps=[1, 2], **FAST)
    manifest = json.loads((out / "proxy.json").read_text())
    write_manifest(out / "proxy.json", {**manifest, "complete": False})
    model = load_model(read_info(out / "step-0000002.safetensors"), torch.device("cpu"))
    state: dict[str, Any] = {
        "model": dict(model.state_dict()),
        "optimizer": {},
        "step": 2,
        "losses": [5.0, 4.0],
        "loss_sum": 0.0,
        "loss_steps": 0,
        "num_tokens": 9,
        "model_flops": 9,
        "position": {"epoch": 0, "batch": 2},
    }
    write_state(out / "state.pt", state)
    written = bytearray((out / "state.pt").read_bytes())
    written[len(written) // 2] ^= 1
    name = next(iter(state["model"]))
    damaged: list[tuple[bytes | dict[str, Any], str]] = [
        (b"not a state", "cannot be read"),
        (b"", "cannot be read"),
        (bytes(written), "its SHA-256 is not the one it was saved with"),
        ({**state, "losses": [5.0]}, "it has 1 losses at update 2, expected 2"),
        ({**state, "losses": [5.0, float("nan")]}, "its losses are not finite numbers"),
        ({**state, "step": 3}, "it is of update 3 of 2"),
        ({**state, "step": "2"}, "its step is str, expected int"),
        ({**state, "model": {}}, f"weights of {name}: missing"),
        (
            {**state, "model": {**state["model"], name: torch.zeros(())}},
            f"weights of {name}: \\(\\)",
        ),
        ({**state, "model": {name: [1.0]}}, "it holds what is no tensor of finite numbers"),
        ({"step": 2}, "it has no model"),
    ]
    for content, message in damaged:
        if isinstance(content, bytes):
            (out / "state.pt").write_bytes(content)
        else:
            write_state(out / "state.pt", content)
        with pytest.raises(
            OutputError, match=rf"state\.pt: cannot be read .*{message}.*; delete it"
        ):
            train(toy_corpus, out=out, checkpoint_steps=[1, 2], **FAST)


def test_weights_are_compared_with_their_hash(tmp_path: Path, toy_corpus: Corpus) -> None:
    """Beside the run, and away from it."""
    run = train(toy_corpus, out=tmp_path / "run", checkpoint_steps=[1, 2], **FAST)
    file, alone = run.checkpoints[0], tmp_path / "alone.safetensors"
    content = file.read_bytes()
    file.write_bytes(run.checkpoints[1].read_bytes())
    with pytest.raises(CheckpointError, match=r"step-0000001\.safetensors: is not as it was writ"):
        load_model(read_info(file), torch.device("cpu"))
    for at in range(len(content) - 5, len(content) // 2, -len(content) // 7):
        damaged = bytearray(content)
        damaged[at] ^= 16
        alone.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="header and weights have SHA-256"):
            load_model(read_info(alone), torch.device("cpu"))
    alone.write_bytes(content.replace(b'step\\": 1', b'step\\": 7'))
    assert read_info(alone).step == 7
    with pytest.raises(CheckpointError, match="header and weights have SHA-256"):
        load_model(read_info(alone), torch.device("cpu"))
    # Weights without a hash, as an older pycat saved them.
    with safe_open(alone, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        header = json.loads(opened.metadata()["pycat"])
    del header["sha256"]
    matrix = next(name for name, value in tensors.items() if value.dim() == 2)
    for value, message in ((0.0, "is all zero"), (float("nan"), "is not a finite number")):
        changed = {**tensors, matrix: torch.full_like(tensors[matrix], value)}
        save_file(changed, alone, {"pycat": json.dumps(header)})
        with pytest.raises(CheckpointError, match=message):
            load_model(read_info(alone), torch.device("cpu"))
    for name, wrong in (("num_layers", -3), ("num_heads", 0), ("num_heads", 7), ("d_ff", "x")):
        config = {**header["config"], name: wrong}
        save_file(tensors, alone, {"pycat": json.dumps({**header, "config": config})})
        with pytest.raises(CheckpointError, match="its header describes the shape"):
            read_info(alone)


def test_seeds_reproduce_and_differ(tmp_path: Path, toy_corpus: Corpus) -> None:
    runs = [
        train(toy_corpus, out=tmp_path / str(i), checkpoint_steps=[1, 2], seed=seed, **FAST)
        for i, seed in enumerate((0, 0, 1))
    ]
    weights = [run.checkpoints[-1].read_bytes() for run in runs]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_training_leaves_the_global_generator_alone(tmp_path: Path, toy_corpus: Corpus) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    train(toy_corpus, out=tmp_path / "run", checkpoint_steps=[1, 2], **FAST)
    assert torch.equal(torch.rand(1), expected)


def test_a_finished_run_is_opened_and_a_changed_one_refused(
    tmp_path: Path, toy_corpus: Corpus
) -> None:
    out = tmp_path / "run"
    first = train(toy_corpus, out=out, checkpoint_steps=[1, 2], **FAST)
    before = first.checkpoints[0].stat().st_mtime_ns
    assert train(toy_corpus, out=out, checkpoint_steps=[1, 2], **FAST).losses == first.losses
    assert first.checkpoints[0].stat().st_mtime_ns == before
    with pytest.raises(OutputError, match=r"seed was 0, now 1.*--overwrite"):
        train(toy_corpus, out=out, checkpoint_steps=[1, 2], seed=1, **FAST)
    train(toy_corpus, out=out, checkpoint_steps=[2, 3], overwrite=True, **FAST)
    assert sorted(path.name for path in out.iterdir()) == [
        "proxy.json",
        "step-0000002.safetensors",
        "step-0000003.safetensors",
    ]


def test_loss_is_the_smoothed_cross_entropy_of_real_tokens(
    tmp_path: Path, toy_corpus: Corpus
) -> None:
    run = train(
        toy_corpus, out=tmp_path / "run", checkpoint_steps=[1, 2], dropout=0.0, seed=3, **FAST
    )
    torch.manual_seed(3)
    model = Transformer(ModelConfig(vocab_size=toy_corpus.vocab_size, **PRESETS["tiny"]))
    losses = []
    first = next(PackedBatches(toy_corpus, FAST["batch_tokens"], seed=3))
    for pair_id in first.pair_ids:
        pair = toy_corpus.read(np.array([pair_id]))
        tgt = pair.tgt_tokens
        tgt_in = torch.cat((torch.tensor([toy_corpus.eos_id]), tgt[:-1]))
        hidden = model(pair.src_tokens[None], torch.tensor([len(pair.src_tokens)]), tgt_in[None])
        log_probs = torch.log_softmax(hidden[0] @ model.output_weight.T, -1)
        nll = -log_probs.gather(1, tgt[:, None])[:, 0]
        losses.append(0.9 * nll - 0.1 * log_probs.mean(1))
    # Either side is the mean of float32 losses.
    expected = torch.cat(losses).mean().item()
    assert run.losses[0] == pytest.approx(expected, rel=0, abs=2 * NLL_PER_TOKEN)


def test_checkpoint_is_float32_and_says_what_it_is(tmp_path: Path, toy_corpus: Corpus) -> None:
    run = train(toy_corpus, out=tmp_path / "run", checkpoint_steps=[1, 2], **FAST)
    info = read_info(run.checkpoints[1])
    assert (info.step, info.config.d_model) == (2, 256)
    assert info.tokenizer_sha256 == toy_corpus.tokenizer.sha256
    tensors = load_file(run.checkpoints[1])
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert tensors["embedding.weight"].shape == (toy_corpus.vocab_size, 256)


@pytest.mark.parametrize(
    ("count", "schedule", "given", "updates", "steps"),
    [
        (5, "linear", None, 100, [20, 40, 60, 80, 100]),
        (5, "loss", None, 100, [100]),
        (3, "linear", None, 10, [3, 7, 10]),
        (4, "log", None, 80, [10, 20, 40, 80]),
        (5, "linear", (100, 200, 400), 7, [100, 200, 400]),
        (1, "linear", None, 9, [9]),
    ],
)
def test_checkpoint_steps(
    count: int, schedule: str, given: tuple[int, ...] | None, updates: int, steps: list[int]
) -> None:
    assert checkpoint_steps_of(count, schedule, given, updates, warmup=10) == steps


def test_rate_rises_linearly_then_falls_with_the_root() -> None:
    rates = [rate_share("inverse_sqrt", step, 100, 400) for step in (1, 50, 100, 400)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 0.5])


def test_rate_is_held_then_falls_to_zero_in_the_last_third() -> None:
    rates = [rate_share("wsd", step, 10, 300) for step in (1, 10, 200, 201, 251, 300)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.5, 0.01])
    assert rate_share("wsd", 10_000, 10, 0) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "huge"}, "preset is 'huge'; expected one of mini, tiny, base"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; expected one of adam, muon"),
        ({"dropout": 0.95}, "dropout is 0.95; expected at least 0 and at most 0.9"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; expected at least 0 and below 1"),
        ({"learning_rate": math.inf}, "learning_rate is inf; expected above 0 and below 1"),
        ({"epochs": math.nan}, "epochs is nan; expected above 0"),
        ({"epochs": 0}, "epochs is 0; expected above 0"),
        ({"updates": 0}, "updates is 0; expected at least 1"),
        ({"warmup": 0}, "warmup is 0; expected at least 1"),
        ({"batch_tokens": 0}, "batch_tokens is 0; expected at least 1"),
        ({"seed": -1}, "seed is -1; expected at least 0 and below"),
        ({"seed": 2**31}, "seed is 2147483648; expected at least 0 and below"),
        ({"checkpoint_steps": [5, 5]}, r"\[5, 5\]; expected at least two ascending"),
        ({"checkpoint_steps": [5]}, "at least two ascending"),
        ({"updates": 3}, "3 updates cannot hold 5 linear checkpoints"),
        ({"updates": 8, "checkpoint_schedule": "log"}, "cannot hold 5 log checkpoints"),
        ({"checkpoint_schedule": "cosine"}, "'cosine'; expected one of linear, log, loss"),
        (
            {"updates": 8, "warmup": 4, "checkpoints": 4, "checkpoint_schedule": "loss"},
            "8 updates cannot hold 4 loss checkpoints behind a warm-up of 4",
        ),
        ({"checkpoint_schedule": "loss", "dynamic": 0.5}, "dynamic pruning does not allow"),
        ({"dynamic": 1.0}, "dynamic is 1.0; expected above 0 and below 1"),
        ({"dynamic": 0.0}, "dynamic is 0.0; expected above 0 and below 1"),
        ({"dynamic": math.nan}, "dynamic is nan; expected above 0 and below 1"),
        ({"dynamic_by": "ppl"}, "dynamic_by is 'ppl'; expected one of loss, infobatch, random"),
        ({"dynamic_unit": "words"}, "dynamic_unit is 'words'; expected one of pairs, spans"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"dtype": "float16"}, "dtype is 'float16'; expected one of auto"),
    ],
)
def test_options_out_of_range_are_named(
    tmp_path: Path, toy_corpus: Corpus, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PycatError, match=message):
        train(toy_corpus, out=tmp_path / "run", **{**FAST, **options})
    assert not (tmp_path / "run").exists()


def test_a_corpus_smaller_than_one_batch_is_refused(tmp_path: Path, toy_corpus: Corpus) -> None:
    tokens = int(toy_corpus.num_tokens.sum())
    with pytest.raises(
        CorpusError, match=f"hold {tokens:,} target tokens, expected at least one batch of 1,000,0"
    ):
        train(toy_corpus, out=tmp_path / "run", batch_tokens=1_000_000)


def test_a_diverging_loss_is_reported(
    tmp_path: Path, toy_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "rate_share", lambda *_: math.inf)
    with pytest.raises(PycatError, match=r"training loss is (nan|inf) at update \d+; lower learn"):
        train(
            toy_corpus,
            out=tmp_path / "run",
            checkpoint_steps=[10, 20],
            **FAST,
        )


def test_each_budget_is_annealed_in_a_branch_of_its_own(tmp_path: Path, toy_corpus: Corpus) -> None:
    options: dict[str, Any] = {**FAST, "dropout": 0.0, "warmup": 2}
    both, short = (
        train_together(
            [Arm(toy_corpus, 0, tmp_path / name)],
            checkpoint_steps=steps,
            anneal_each=True,
            **options,
        )[0]
        for name, steps in (("both", [6, 12]), ("short", [6]))
    )
    alone = train(
        toy_corpus,
        out=tmp_path / "alone",
        checkpoint_steps=[9, 12],
        rate_schedule="wsd",
        **options,
    )
    assert both.checkpoints[0].read_bytes() == short.checkpoints[0].read_bytes()
    for name, value in load_file(both.checkpoints[1]).items():
        torch.testing.assert_close(value, load_file(alone.checkpoints[1])[name], msg=name)


def test_a_branched_run_goes_on_where_it_was_cut(
    tmp_path: Path, toy_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"checkpoint_steps": [6, 12], "anneal_each": True, **FAST}
    (whole,) = train_together([Arm(toy_corpus, 0, tmp_path / "whole")], **options)
    update = StackedStep.update
    for stop_after in (5, 4):  # in the first branch, then behind it
        calls = iter(range(stop_after))

        def stopping(*arguments: Any, calls: Any = calls, **more: Any) -> None:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            update(*arguments, **more)

        monkeypatch.setattr(StackedStep, "update", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_together([Arm(toy_corpus, 0, tmp_path / "cut")], **options)
    monkeypatch.setattr(StackedStep, "update", update)
    (cut,) = train_together([Arm(toy_corpus, 0, tmp_path / "cut")], **options)
    for one, other in zip(whole.checkpoints, cut.checkpoints, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert cut.losses == whole.losses


def test_runs_trained_together_are_those_trained_alone(tmp_path: Path, toy_corpus: Corpus) -> None:
    options: dict[str, Any] = {"checkpoint_steps": [2, 4], "dropout": 0.0, **FAST}
    half = toy_corpus.subset(toy_corpus.pair_ids[::2])
    arms = [(toy_corpus, 0), (half, 0), (half, 1)]
    together = train_together(
        [Arm(corpus, seed, tmp_path / f"m{m}") for m, (corpus, seed) in enumerate(arms)], **options
    )
    for m, (corpus, seed) in enumerate(arms):
        (alone,) = train_together([Arm(corpus, seed, tmp_path / f"alone{m}")], **options)
        assert together[m].losses == pytest.approx(alone.losses, rel=1e-4)
        assert together[m].manifest["num_tokens"] == alone.manifest["num_tokens"]


def test_updates_of_interrupted_runs_are_counted(
    tmp_path: Path, toy_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"checkpoint_steps": [6, 12], "anneal_each": True, **FAST}
    arms = [Arm(toy_corpus, seed, tmp_path / str(seed)) for seed in (0, 1)]
    assert count_updates_done(arms, **options) == 0
    # The constant rate ends after 8 of 12 updates; the branch of the first budget has 2 more.
    with stopping_at(8, monkeypatch), pytest.raises(KeyboardInterrupt):
        train_together(arms[:1], **options)
    assert count_updates_done(arms, **options) == 10
    train_together(arms[:1], **options)
    assert count_updates_done(arms, **options) == 14
    assert count_updates_done(arms, **{**options, "dropout": 0.2}) == 0


def test_a_run_by_loss_keeps_nothing_of_the_warmup_and_resumes(
    tmp_path: Path, toy_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        **FAST,
        "checkpoint_schedule": "loss",
        "checkpoints": 2,
        "updates": 24,
        "warmup": 8,
    }
    whole = train(toy_corpus, out=tmp_path / "whole", **options)
    assert len(whole.steps) == 2
    assert 8 < whole.steps[0] < whole.steps[1] == 24
    assert whole.losses[0] > whole.losses[1]
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == ["proxy.json", *(path.name for path in whole.checkpoints)]
    assert [read_info(path).step for path in whole.checkpoints] == list(whole.steps)
    with stopping_at(20, monkeypatch), pytest.raises(KeyboardInterrupt):
        train(toy_corpus, out=tmp_path / "cut", **options)
    cut = train(toy_corpus, out=tmp_path / "cut", **options)
    assert (cut.steps, cut.losses) == (whole.steps, whole.losses)
    for one, other in zip(whole.checkpoints, cut.checkpoints, strict=True):
        assert one.read_bytes() == other.read_bytes()
    # The weights are those that a run of fixed checkpoints has there.
    steps = list(whole.steps)
    same = train(
        toy_corpus, out=tmp_path / "same", checkpoint_steps=steps, warmup=options["warmup"], **FAST
    )
    assert same.checkpoints[0].read_bytes() == whole.checkpoints[0].read_bytes()


@pytest.mark.parametrize("by", ["loss", "infobatch", "random"])
@pytest.mark.parametrize("unit", ["pairs", "spans"])
def test_a_run_with_dynamic_pruning_ends_in_the_same_bytes(
    by: str, unit: str, tmp_path: Path, toy_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = toy_corpus.subset(toy_corpus.pair_ids[:40])
    num_batches = PackedBatches(few, FAST["batch_tokens"]).num_batches
    options: dict[str, Any] = {
        **FAST,
        "preset": "mini",
        "checkpoint_steps": [2, 3 * num_batches],
        "dynamic": 0.5,
        "dynamic_by": by,
        "dynamic_unit": unit,
    }
    whole = train(few, out=tmp_path / "whole", **options)
    stop = num_batches + 1 + num_batches // 4  # within an epoch that was chosen
    with stopping_at(stop, monkeypatch), pytest.raises(KeyboardInterrupt):
        train(few, out=tmp_path / "cut", **options)
    cut = train(few, out=tmp_path / "cut", **options)
    assert cut.losses == whole.losses
    assert cut.checkpoints[1].read_bytes() == whole.checkpoints[1].read_bytes()
    plain = train(
        few,
        out=tmp_path / "plain",
        preset="mini",
        **{name: options[name] for name in ("checkpoint_steps", *list(FAST)[1:])},
    )
    assert plain.checkpoints[1].read_bytes() != whole.checkpoints[1].read_bytes()


def test_dynamic_pruning_makes_its_share_of_the_updates(tmp_path: Path, toy_corpus: Corpus) -> None:
    num_batches = PackedBatches(toy_corpus, 512).num_batches
    options: dict[str, Any] = {**FAST, "preset": "mini", "batch_tokens": 512, "epochs": 1.0}
    run = train(toy_corpus, out=tmp_path / "run", dynamic=0.5, checkpoints=2, **options)
    assert run.steps[-1] == round(0.5 * num_batches)
    assert run.manifest["recipe"]["dynamic"] == {"share": 0.5, "by": "loss", "unit": "pairs"}
