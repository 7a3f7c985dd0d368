"""Children end with their parent, whatever ends it, and Ctrl-C is one line on the command line."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pycat.runtime.children import run_python

_PARENT = """
import sys
from pycat.runtime.children import run_python
run_python([sys.argv[1], sys.argv[2]])
"""
_CHILD = """
import os, sys, time
from pathlib import Path
Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_child_ends_with_its_parent(tmp_path: Path, number: int) -> None:
    script, file = tmp_path / "child.py", tmp_path / "pid"
    script.write_text(_CHILD)
    command = [sys.executable, "-c", _PARENT, str(script), str(file)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as parent:
        _until(lambda: file.exists() and file.read_text() != "")
        child = Path(f"/proc/{file.read_text()}")
        assert child.exists()
        parent.send_signal(number)
    _until(lambda: not child.exists() or " Z " in (child / "stat").read_text())


def test_output_and_status_of_a_child_come_back(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text("import sys\nprint(sys.stdin.read() + sys.argv[1])\nsys.exit(3)\n")
    done = run_python([str(script), "word"], stdin=b"input ")
    assert (done.returncode, done.stdout) == (3, b"input word\n")
    shown = run_python(["-m", "json.tool", "--help"])
    assert shown.returncode == 0 and b"usage" in shown.stdout


_INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from pycat.runtime import interrupts
interrupts.watch()
from pycat.cli.main import exit_status

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def swallowed():
    Swallows()

def while_importing():
    script = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    Path("interrupts_itself.py").write_text(script)
    sys.path.insert(0, ".")
    import interrupts_itself

def as_another_error():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise RuntimeError("INTERRUPT Error: Interrupted!")

sys.exit(exit_status(globals()[sys.argv[1]]))
"""


@pytest.mark.parametrize("how", ["swallowed", "while_importing", "as_another_error"])
def test_ctrl_c_is_one_line_wherever_it_comes(tmp_path: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, how], cwd=tmp_path, capture_output=True, text=True
    )
    message = "pycat: interrupted; the same command goes on from here\n"
    assert (done.returncode, done.stderr) == (130, message)


def test_closed_standard_streams_do_not_become_files(tmp_path: Path) -> None:
    script = "import os, sys; os.closerange(0, 3); from pycat.__main__ import main; main()"
    command = [sys.executable, "-c", script, "explain", "--scores", str(tmp_path), "--pair", "0"]
    assert subprocess.run(command, close_fds=True).returncode in (0, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_process_computes_with_one_thread() -> None:
    # libgomp waits for ever for threads that a fork does not copy.
    import torch

    import pycat.runtime.device  # noqa: F401 - looks after forks

    child = os.fork()
    if child == 0:
        os._exit(torch.get_num_threads())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
