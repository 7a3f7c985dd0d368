"""The verb `check`."""

from dataclasses import dataclass
from pathlib import Path

import pycat
from pycat.cli.options import option
from pycat.errors import PycatError


@dataclass(frozen=True, kw_only=True)
class Check:
    """Verify folders that pycat made, in full, and say which command makes what is damaged anew.

    Other verbs verify of a corpus what they read, of score tables and measures what they open.
    The status is 1 if anything is damaged.
    """

    folder: Path = option(
        "Verify this folder of any verb, and the folders in it.", positional=True, metavar="FOLDER"
    )

    def run(self) -> None:
        """Verify, and print a line for each folder."""
        found = pycat.check(self.folder)
        for row in found:
            state = f"{len(row.problems)} problems" if row.problems else "as it was made"
            print(f"{row.path}: {row.kind}, {row.num_files} files: {state}")
            for problem in row.problems:
                print(f"  {problem}")
        if num_damaged := sum(bool(row.problems) for row in found):
            raise PycatError(
                f"{self.folder}: {num_damaged} of {len(found)} folders are damaged, as said above"
            )
