"""The commands as programs: Ctrl-C from the first moment on, and output that takes no more."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "pycat"
MESSAGE = "pycat: interrupted; the same command goes on from here\n"


def _interrupted_before_it_began() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("command", [[str(COMMAND)], [sys.executable, "-P", "-m", "pycat"]])
def test_ctrl_c_that_was_held_back_comes(command: list[str]) -> None:
    done = subprocess.run(
        [*command, "--version"],
        preexec_fn=_interrupted_before_it_began,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", MESSAGE)


def test_the_command_holds_ctrl_c_back_and_passes_its_words_on(tmp_path: Path) -> None:
    here = Path(shutil.copy(COMMAND, tmp_path / "pycat"))
    missing = subprocess.run([str(here)], capture_output=True, text=True)
    assert (missing.returncode, missing.stderr) == (
        127,
        f"{tmp_path}/pycat-main: No such file or directory\n",
    )
    script = tmp_path / "pycat-main"
    script.write_text(
        f"#!{sys.executable}\nimport signal, sys\nprint(sys.argv[1:])\n"
        "print({*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))})\n"
    )
    script.chmod(0o755)
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(here)
    for path in (here, link):
        done = subprocess.run([str(path), "a b", "", "-c"], capture_output=True, text=True)
        assert done.stdout == f"['a b', '', '-c']\n{{{int(signal.SIGINT)}}}\n"


@pytest.mark.parametrize("when", ["watch()", "watch(); begin(); end()"])
def test_ctrl_c_outside_of_the_work_is_one_line(when: str) -> None:
    """Before it begins and once it has ended, nothing catches an error."""
    script = f"""
import os, signal
from pycat.runtime.interrupts import begin, end, watch
{when}
os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, MESSAGE)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words", [["pycat", "--help"], ["pycat", "--version"], ["pycat-demo", "--src=a", "--tgt=b"]]
)
def test_output_that_is_lost_is_an_error(words: list[str], unbuffered: str) -> None:
    command = [str(COMMAND.with_name(words[0])), *words[1:]]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert (done.returncode, done.stderr) == (
        1,
        "pycat: error: standard output: No space left on device; direct it to another place\n",
    )
