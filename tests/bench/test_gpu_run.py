"""The bounded GPU run, tried on the CPU: limits, what is left behind, and the order of parts."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bench_cross_entropy
import pytest
import torch
from gpu import check_ops, run

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench" / "gpu" / "run.py"


def command(name: str, code: str, **more: Any) -> run.Command:
    return run.Command(name, [sys.executable, "-c", code], **more)


def script(*argv: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *argv, "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, and not yet collected by its parent


def test_a_killed_command_leaves_what_it_printed_and_wrote(tmp_path: Path) -> None:
    child = "import time; time.sleep(60)"
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', '{child}'])\n"
        "open(sys.argv[2], 'w').write('{\"done\": 1}')\n"
        "print('child', child.pid)\n"
        "time.sleep(60)"
    )
    part = run.Part("slow", 60, "", [command("slow", code, writes_json=True), command("later", "")])
    began = time.perf_counter()
    outcome = run.run_part(part, 3.0, tmp_path)
    assert time.perf_counter() - began < 20
    assert outcome["status"] == "failed"
    assert outcome["exits"] == {"slow": "killed at its time limit", "later": "not begun"}
    assert outcome["results"] == {"slow": {"done": 1}}
    printed = (tmp_path / "slow.log").read_text()
    assert printed.startswith("$ ")
    child_id = int(printed.splitlines()[-1].removeprefix("child "))
    deadline = time.monotonic() + 10  # a killed process takes a while to end
    while is_running(child_id) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child_id)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slow.log"]


def test_a_command_may_have_a_limit_of_its_own(tmp_path: Path) -> None:
    commands = [
        command("slow", "import time; time.sleep(60)", limit_s=1.0),
        command("quick", "print('here')"),
        command("wrong", "raise SystemExit(3)"),
    ]
    outcome = run.run_part(run.Part("both", 60, "", commands, at_once=True), 30.0, tmp_path)
    assert outcome["exits"] == {"slow": "killed at its time limit", "quick": 0, "wrong": 3}
    assert outcome["seconds"] < 20
    assert "here" in (tmp_path / "quick.log").read_text()


@pytest.mark.parametrize("keep_going", [False, True])
def test_measuring_stops_where_correctness_fails(
    keep_going: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts = [
        run.Part("correctness", 30, "", [command("tests", "raise SystemExit('one is wrong')")]),
        run.Part("kernels", 30, "", [command("kernels", "print('fast')")]),
        run.Part("training", 0, "", missing="the stacked trainer"),
    ]
    monkeypatch.setattr(run, "parts_for", lambda device: parts)
    argv = ["--device", "cpu", "--out", str(tmp_path), *(["--keep-going"] if keep_going else [])]
    assert run.run(run.parse(argv)) == 1
    found = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert found["correctness"]["status"] == "failed"
    expected = "done" if keep_going else "not run: correctness failed (see --keep-going)"
    assert found["kernels"]["status"] == expected
    assert found["training"]["status"] == "waits for the stacked trainer"
    assert "one is wrong" in capsys.readouterr().out


def test_nothing_begins_when_the_budget_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [run.Part("kernels", 30, "", [command("kernels", "print('fast')")])]
    monkeypatch.setattr(run, "parts_for", lambda device: parts)
    argv = ["--device", "cpu", "--budget", "12", "--out", str(tmp_path)]
    assert run.run(run.parse(argv)) == 1
    found = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert found["kernels"] == {"status": "not run: the budget is spent"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_error_says_what_to_do(tmp_path: Path) -> None:
    done = script(out=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("no CUDA device here")
    assert "make gpu DEVICE=cpu" in done.stderr


def test_few_files_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "find_sanitizer", lambda: "compute-sanitizer")
    for device in ("cpu", "cuda"):
        commands = [command for part in run.parts_for(device) for command in part.commands]
        assert len({command.name for command in commands}) == len(commands)
        assert len({command.log for command in commands}) <= 7  # and results.json


def test_modules_with_gpu_tests_are_found() -> None:
    assert "tests/kernels/test_triton_kernels.py" in run.gpu_tests()
    assert "tests/scoring/test_stacked_proxies.py" in run.gpu_tests()


def test_cases_under_the_checker_of_memory_exist() -> None:
    names = [case.name for case in check_ops.cases("cuda")]
    assert len(set(names)) == len(names)
    assert set(run.SANITIZED) <= set(names)


def test_the_goals_are_among_the_cases_that_are_timed() -> None:
    cases = list(bench_cross_entropy.cases("cuda", quick=True))
    assert all(case.t % bench_cross_entropy.SENTENCE_TOKENS == 0 for case in cases)
    logits = [case for case in cases if case.h == 0]
    assert all(case.k * case.t * case.v * case.dtype.itemsize > 2e9 for case in logits)
    shapes = {(case.function, case.k, case.h, case.v) for case in cases}
    assert {("linear", 1, h, 32_000) for h in (512, 1024, 2048, 4096)} <= shapes
    assert {("logits", 1, 0, v) for v in (8_000, 32_000, 128_000)} <= shapes
    assert {("linear", 5, 512, 32_000), ("logits", 5, 0, 32_000)} <= shapes


@pytest.mark.parametrize(
    ("column", "off"),
    [("nll", 1e-2), ("nll_per_token", 1e-4), ("ppl_mean", 1e-2), ("num_tokens", 1)],
)
def test_a_wrong_result_is_seen(column: str, off: float) -> None:
    from pycat.kernels import ops, reference

    case = check_ops.Case("linear", "float32", "ignored", 2, 40, 50, 8)
    given = check_ops.make(case)
    lengths = given["cu_seqlens"].diff().double()
    exact = check_ops.call(reference, given)
    found = check_ops.call(ops, given)
    assert check_ops.differences(found, exact, lengths, 2e-5) == {}
    found[column][..., -1] += off
    assert column in check_ops.differences(found, exact, lengths, 2e-5)
    found[column] = found[column] * float("nan")
    assert column in check_ops.differences(found, exact, lengths, 2e-5)


@pytest.mark.slow
def test_the_kernels_are_checked_and_timed_in_small(tmp_path: Path) -> None:
    done = script("--device", "cpu", "--parts", "correctness", "kernels", "study", out=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["machine"]["torch"] == torch.__version__
    assert found["parts"]["study"] == {"status": "waits for the study"}
    ops = found["parts"]["correctness"]["results"]["ops"]
    assert ops["cases"] == ops["of"] > 5
    assert ops["failed"] == []
    cases = found["parts"]["kernels"]["results"]["kernels"]["cases"]
    assert {case["function"] for case in cases} == {"linear", "logits"}
    assert all(case["is_right"] and case["ms"] > 0 for case in cases)
    assert len(list(tmp_path.iterdir())) <= 8
