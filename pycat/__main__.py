"""`python -m pycat`, and the commands `pycat` and `pycat-demo`."""

import os
import sys

from pycat.runtime import interrupts


def main() -> int:
    """Run the command line; Ctrl-C is looked after before anything else is imported."""
    interrupts.watch()
    _open_standard_streams()
    from pycat.cli.main import main as run

    return run()


def demo() -> int:
    """Run the demonstration in the same way."""
    interrupts.watch()
    _open_standard_streams()
    from pycat.demo.main import main as run

    return run()


def _open_standard_streams() -> None:
    """Open /dev/null for standard streams that are closed.

    Otherwise the next file that is opened would be taken for one, and receive what is printed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115


if __name__ == "__main__":
    sys.exit(main())
