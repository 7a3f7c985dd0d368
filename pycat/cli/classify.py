"""The verb `classify`: a filter of tab-separated lines in a pipe."""

import io
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pycat.cli.options import option
from pycat.errors import PycatError, TextError

if TYPE_CHECKING:
    from pycat.selection.classifying import ScoredText


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Add the score of each tab-separated line as its last column, and remove the lines below.

    Lines are found in the scored corpus by their text, in any order. Those that are not in it have
    the score nan. With --threshold, lines that have no score or a lower one are removed.
    """

    scores: Path = option("Take the scores in this folder, made by score.", metavar="FOLDER")
    by: str | None = option(
        "Score by this criterion; without it, by learnability.",
        None,
        metavar="CRITERION",
    )
    threshold: float | None = option("Keep lines of at least this score; without it, all.", None)
    rules: str = option(
        "Remove what these rules of select hit, too: none, default, or a JSON file.", "none"
    )
    scol: int = option("The source is this column, counted from 1.", 1)
    tcol: int = option("The target is this column, counted from 1.", 2)
    score_only: bool = option("Write the score alone, not the line before it.", False)
    removed: Path | None = option(
        "Write removed lines to this file, with score and reason as the last columns.", None
    )
    prefix: str | None = option(
        "Write what is kept to PREFIX.best-scores.zst in place of --output.", None, metavar="PREFIX"
    )
    overwrite: bool = option("Replace files that exist.", False)
    input: Path | None = option(
        "Read this file, or - for standard input.", None, positional=True, metavar="INPUT"
    )
    output: Path | None = option(
        "Write this file, or - for standard output.", None, positional=True, metavar="OUTPUT"
    )

    def run(self) -> None:
        """Filter the lines, and tell on standard error how many were kept."""
        from pycat.data.text_files import compressing
        from pycat.filters.rules import complete_rules, read_rules
        from pycat.runtime.named_files import writing
        from pycat.selection.classifying import ScoredText

        if self.scol < 1 or self.tcol < 1 or self.scol == self.tcol:
            raise PycatError(
                f"classify: --scol is {self.scol} and --tcol {self.tcol}; expected two different "
                "columns, counted from 1"
            )
        output = None if self.output is None or str(self.output) == "-" else self.output
        if self.prefix is not None:
            if output is not None:
                raise PycatError("classify: OUTPUT and --prefix exclude each other; pass one")
            output = Path(f"{self.prefix}.best-scores.zst")
        changed = read_rules(self.rules)
        scored = ScoredText(
            self.scores, self.by, rules=None if changed is None else complete_rules(changed)
        )
        with ExitStack() as stack:
            lines = _opened(self.input, stack)
            outs = [output or Path("-"), *([] if self.removed is None else [self.removed])]
            files = stack.enter_context(writing(outs, overwrite=self.overwrite))
            streams = [
                stack.enter_context(io.BufferedWriter(compressing(file, out), 1 << 20))
                for file, out in zip(files, outs, strict=True)
            ]
            num_lines, num_kept = self._filter(scored, lines, streams[0], (*streams, None)[1])
        print(f"classify: kept {num_kept:,} of {num_lines:,} lines", file=sys.stderr)

    def _filter(
        self, scored: "ScoredText", lines: BinaryIO, kept: BinaryIO, removed: BinaryIO | None
    ) -> tuple[int, int]:
        """Write each line to one of the files; how many were read, and kept."""
        num_lines = num_kept = 0
        for num_lines, raw in enumerate(lines, start=1):
            line = raw.removesuffix(b"\n").removesuffix(b"\r")
            columns = line.split(b"\t")
            if len(columns) < max(self.scol, self.tcol):
                raise TextError(
                    f"{self.input or 'standard input'}: line {num_lines:,} has {len(columns)} "
                    f"columns, expected at least {max(self.scol, self.tcol)}; name those of source "
                    "and target with --scol and --tcol"
                )
            score, reason = scored.find(columns[self.scol - 1], columns[self.tcol - 1])
            if reason is None and self.threshold is not None and not score >= self.threshold:
                reason = f"score below {self.threshold:g}"
            is_kept = reason is None or (self.threshold is None and self.rules == "none")
            text = f"{score:.6g}".encode()
            before = b"" if self.score_only else line + b"\t"
            if is_kept:
                num_kept += 1
                kept.write(before + text + b"\n")
            elif removed is not None:
                removed.write(b"\t".join((line, text, (reason or "").encode())) + b"\n")
        return num_lines, num_kept


def _opened(path: Path | None, stack: ExitStack) -> BinaryIO:
    if path is None or str(path) == "-":
        return sys.stdin.buffer
    from pycat.data.text_files import opened_text

    return stack.enter_context(opened_text(path))[0]
