"""The command line: one verb a stage, and errors in one line."""

import errno
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pycat
from pycat.cli.classify import Classify
from pycat.cli.explain import Explain
from pycat.cli.options import add_options, joined_criteria, read
from pycat.cli.prune import Prune
from pycat.cli.report import Report
from pycat.cli.score import Score
from pycat.cli.select import Apply, Select
from pycat.cli.stages import Baseline, Evaluate, Measure, MegatronIndex, Tokenize, Train
from pycat.errors import PycatError


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
    "select": Select,
    "apply": Apply,
    "classify": Classify,
    "explain": Explain,
    "report": Report,
    "evaluate": Evaluate,
    "prune": Prune,
    "megatron-index": MegatronIndex,
}

_REMEDIES = {
    errno.ENOSPC: "free some space or choose --out on another disk",
    errno.EDQUOT: "free some space or choose --out on another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) or choose --out on another disk",
    errno.EACCES: "see that you may read or write there, or choose another place",
    errno.EPERM: "see that you may read or write there, or choose another place",
    errno.EROFS: "choose an --out you may write to",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pycat`; returns the exit status, as `exit_status`."""
    return exit_status(parse(sys.argv[1:] if argv is None else argv).run)


def exit_status(run: Callable[[], None]) -> int:
    """Run a verb, and print an error in one line: 0, 1 after an error, 130 after Ctrl-C."""
    try:
        run()
    except PycatError as error:
        return _failed(str(error))
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        return _failed(f"{str(error).splitlines()[0]}; lower --batch-tokens")
    except BrokenPipeError:  # the reader of our output left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "mend that")
        again = "and run the same command again: finished work is kept"
        return _failed(f"{error}; {remedy}, {again}")
    except KeyboardInterrupt:
        print("pycat: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def parse(words: Sequence[str]) -> Verb:
    """The verb named by the words, with its options; exits with status 2 on wrong usage."""
    parser = ArgumentParser(
        prog="pycat",
        description="Prune parallel text for machine translation by Checkpoints Across Time: "
        "keep the pairs whose perplexity moves most while a small proxy model trains.",
    )
    parser.add_argument("--version", action="version", version=f"pycat {pycat.__version__}")
    verbs = parser.add_subparsers(
        title="verbs, in their order", dest="verb", required=True, metavar="VERB"
    )
    for name, kind in VERBS.items():
        text = " ".join((kind.__doc__ or "").split())
        first = text.partition(". ")[0].removesuffix(".") + "."
        add_options(verbs.add_parser(name, help=first, description=text), kind)
    found = parser.parse_args(joined_criteria(words))
    verb: Verb = read(VERBS[found.verb], found)
    return verb


def _failed(message: str) -> int:
    print(f"pycat: error: {message}", file=sys.stderr)
    return 1


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the error is torch's for a device without memory; it is not imported for that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
