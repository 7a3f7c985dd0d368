"""The command line: one verb a stage, and errors in one line."""

import errno
import os
import sys
from argparse import Action, ArgumentParser
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, Protocol

import pycat
from pycat.cli.check import Check
from pycat.cli.classify import Classify
from pycat.cli.columns import Average, Cld, Clusters, Trusted
from pycat.cli.evaluate import Evaluate
from pycat.cli.explain import Explain
from pycat.cli.options import Parser, add_options, joined_criteria, read
from pycat.cli.prune import Prune
from pycat.cli.report import Report
from pycat.cli.score import Score
from pycat.cli.select import Apply, Select
from pycat.cli.stages import Baseline, Measure, MegatronIndex, Tokenize, Train
from pycat.errors import PycatError
from pycat.runtime import interrupts
from pycat.runtime.ranks import refuse_ranks


class Verb(Protocol):
    """A dataclass of a verb's options; its docstring is the verb's help."""

    def run(self) -> None:
        """Do it, and print the result."""


# In the order in which they are used.
VERBS: dict[str, type[Any]] = {
    "tokenize": Tokenize,
    "measure": Measure,
    "train": Train,
    "score": Score,
    "baseline": Baseline,
    "trusted": Trusted,
    "average": Average,
    "cld": Cld,
    "clusters": Clusters,
    "select": Select,
    "apply": Apply,
    "classify": Classify,
    "explain": Explain,
    "report": Report,
    "evaluate": Evaluate,
    "prune": Prune,
    "check": Check,
    "megatron-index": MegatronIndex,
}

_REMEDIES = {
    errno.ENOSPC: "free some space or choose --out on another disk",
    errno.EDQUOT: "free some space or choose --out on another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) or choose --out on another disk",
    errno.EACCES: "see that you may read or write there, or choose another place",
    errno.EPERM: "see that you may read or write there, or choose another place",
    errno.EROFS: "choose an --out you may write to",
    errno.ENOENT: "see that the name is right, and that its folder is there",
    errno.ENAMETOOLONG: "choose a shorter name: temporary files have 20 bytes more",
}


# What libraries say without an error of its own: torch, threads, and the loader of libraries.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "can't start new thread",
    "cannot allocate memory",
    "Cannot allocate memory",
    "failed to map segment",
)
_MEMORY_REMEDY = (
    "lower --batch-tokens (of prune: --train-batch-tokens, --score-batch-tokens), use fewer "
    "threads (OMP_NUM_THREADS) or workers, or a machine with more memory; finished work is kept"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pycat`; returns the exit status, as `exit_status`."""
    _write_utf8()  # help speaks of … too

    def run() -> None:
        verb = parse(sys.argv[1:] if argv is None else argv)
        if not isinstance(verb, Train):
            refuse_ranks(next(name for name, kind in VERBS.items() if type(verb) is kind))
        verb.run()

    return exit_status(run)


def exit_status(run: Callable[[], None]) -> int:
    """Run a verb, and print an error in one line: 0, 1 after an error, 130 after Ctrl-C."""
    _write_utf8()
    try:
        interrupts.begin()
        try:
            _run_and_flush(run)
        finally:
            interrupts.end()
    except KeyboardInterrupt:
        return _failed(interrupts.MESSAGE, interrupts.STATUS)
    except BrokenPipeError:  # the reader of our output left
        _is_output_lost()
        return 1
    except Exception as error:
        if interrupts.seen():
            return _failed(interrupts.MESSAGE, interrupts.STATUS)
        message = _message(error)
        if message is None:
            raise
        return _failed(f"pycat: error: {message}", 1)
    return 0


def _run_and_flush(run: Callable[[], None]) -> None:
    """Run, and write the output out: when Python ends, an error would have no message."""
    try:
        run()
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()


def _message(error: Exception) -> str | None:
    """What a user is told of an error; None if it is a fault of pycat."""
    if isinstance(error, PycatError):
        return str(error)
    if _is_out_of_memory(error):
        reason = str(error).strip().splitlines() or ["no more could be had"]
        return f"out of memory ({reason[0][:200]}); {_MEMORY_REMEDY}"
    if isinstance(error, OSError):
        # Whatever else is written is named in its errors.
        if _is_output_lost() or (error.filename is None and error.errno == errno.ENOSPC):
            return f"standard output: {error.strerror}; direct it to another place"
        if error.filename is None and error.errno == errno.ENOENT:
            return (
                "the folder that this command runs in is gone; change to another and run it again"
            )
        remedy = _REMEDIES.get(error.errno or 0, "mend that")
        return f"{error}; {remedy}, and run the same command again: finished work is kept"
    if isinstance(error, UnicodeEncodeError):
        encoding = sys.getfilesystemencoding()
        if encoding != "utf-8":
            return (
                f"{error.object!r}: names of files are {encoding} in this locale, and UTF-8 is "
                "needed; set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
            )
        if error.reason == "surrogates not allowed":
            return f"{error.object!r}: this name is not UTF-8, which is needed here; rename it"
    return None


class _Version(Action):
    """Prints the version; that of argparse takes no notice of output that is lost."""

    def __call__(self, parser: ArgumentParser, *_: object) -> None:
        print(f"pycat {pycat.__version__}")
        parser.exit()


def argument_parser() -> ArgumentParser:
    """The parser of `pycat`, with one for each verb; the manual's pages are made from it."""
    parser = Parser(
        prog="pycat",
        description="Prune parallel text for machine translation by Checkpoints Across Time: "
        "keep the pairs whose perplexity moves most while a small proxy model trains.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show program's version number and exit"
    )
    verbs = parser.add_subparsers(
        title="verbs, in their order", dest="verb", required=True, metavar="VERB"
    )
    for name, kind in VERBS.items():
        text = " ".join((kind.__doc__ or "").split())
        first = text.partition(". ")[0].removesuffix(".") + "."
        add_options(verbs.add_parser(name, help=first, description=text), kind)
    return parser


def parse(words: Sequence[str]) -> Verb:
    """The verb named by the words, with its options; exits with status 2 on wrong usage."""
    parser = argument_parser()
    found, unknown = parser.parse_known_args(joined_criteria(words))
    if unknown:
        name = f"pycat {found.verb}"
        parser.error(f"{name}: unrecognized arguments: {' '.join(unknown)}; see {name} --help")
    verb: Verb = read(VERBS[found.verb], found)
    return verb


def _write_utf8() -> None:
    """Write UTF-8, as all files of pycat are, whatever the locale: sentences are of any language.

    Bytes of file names that are no UTF-8 come out as they are.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def _failed(message: str, status: int) -> int:
    # In one line, and without orders to the terminal, whatever a file's name or content is.
    message = message.translate({code: repr(chr(code))[1:-1] for code in (*range(32), 127)})
    with suppress(OSError):  # standard error may be full or closed
        print(message, file=sys.stderr, flush=True)
    return status


def _is_output_lost() -> bool:
    """Whether standard output takes no more; then what is left of it is dropped."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch is not imported for that."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, (RuntimeError, ImportError)) and any(
        words in str(error) for words in _OUT_OF_MEMORY
    )
