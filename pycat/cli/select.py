"""The verbs `select` and `apply` of the command line: options, and what they print."""

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pycat.errors import PycatError
from pycat.selection.recipe import PARTS, UNITS
from pycat.selection.selection import Selection, select

CRITERION_HELP = (
    'criterion: a name in README.md, "sql: …", or a column of the table; "-ppl" ranks the lowest '
    "first"
)
_RULES_HELP = (
    "what to drop for its text alone, such as copies, other languages, loops and duplicates: "
    "default, none, or a JSON file of thresholds (docs/format.md lists them)"
)
_GUARD_HELP = (
    "of the pairs that have to go, the fraction to drop for being the likeliest noise; 0 for none"
)


def add_options(parser: argparse.ArgumentParser, options: Any) -> None:
    """Add those of `select`; `options` takes defaults from the function."""
    parser.add_argument("--scores", type=Path, required=True, help="folder made by score")
    options.add(
        "keep",
        "fraction of all pairs to keep, above 0 and at most 1, or a range of the ranking",
        type=_fractions,
        metavar="X[:X]",
    )
    options.add("by", CRITERION_HELP, metavar="CRITERION")
    add_noise_options(options)
    options.add("part", "of the ranking", choices=PARTS)
    options.add("unit", "what fractions count", choices=UNITS)
    parser.add_argument(
        "--drop",
        type=_criterion_share,
        action="append",
        default=[],
        metavar="CRITERION:X",
        help="first leave out this fraction of highest scores; may be given several times",
    )
    parser.add_argument(
        "--then", type=_criterion_share, metavar="CRITERION:X", help="short for --by and --keep"
    )
    options.add(
        "strata",
        "keep the same share of each: length, or a column such as a domain; score: equal numbers "
        "of each, drawn at random (coverage-centric)",
        metavar="score|length|COLUMN",
    )
    options.add("num_strata", "by score (default: 50) or length (default: 10)", type=int)
    options.add(
        "cap", "keep at most N pairs of a group, by a column of ids", type=_cap, metavar="COLUMN:N"
    )
    options.add("seed", "of the criterion random, and of strata by score", type=int)
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="also write the kept lines: source and target file, or one file of a TSV input",
    )


def add_noise_options(options: Any) -> None:
    """Add those that `select` and `prune` share."""
    options.add("rules", _RULES_HELP, metavar="default|none|FILE")
    options.add("guard", _GUARD_HELP, type=float)


def add_apply_options(parser: argparse.ArgumentParser) -> None:
    """Add those of `apply`."""
    parser.add_argument("--selection", type=Path, required=True, help="folder made by select")
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="to write: source and target file, or one file of a TSV input",
    )
    parser.add_argument(
        "--of",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="to read in place of the text that was tokenized: two files, or one TSV file",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


def run(
    text: list[Path] | None,
    drop: list[tuple[str, float]],
    then: tuple[str, float] | None,
    **options: Any,
) -> None:
    """Select, print what was kept, and write its text where asked."""
    if then is not None:
        defaults = inspect.signature(select).parameters
        if any(options[name] != defaults[name].default for name in ("by", "keep")):
            raise PycatError("select: --then C:F says --by C --keep F; leave those two out")
        options["by"], options["keep"] = then
    if len(dict(drop)) < len(drop):
        raise PycatError("select: --drop names a criterion twice; add up its fractions")
    selection = select(drop=dict(drop), **options)
    print(summary(selection))
    if text is not None:
        _write_text(selection, text, None, options["overwrite"])


def run_apply(selection: Path, text: list[Path], of: list[Path] | None, overwrite: bool) -> None:
    """Write the text of a selection made before."""
    _write_text(Selection.open(selection), text, of, overwrite)


def _write_text(
    selection: Selection, text: list[Path], of: list[Path] | None, overwrite: bool
) -> None:
    """The kept lines of the corpus's text, or of `of`: two files, or one that is tab-separated."""
    for name, files in (("--text", text), ("--of", of or ())):
        if len(files) > 2:
            raise PycatError(f"{name} names {len(files)} files; expected source and target, or one")
    if len(text) == 2:
        other = of if of is None else of[0] if len(of) == 1 else (of[0], of[1])
        selection.write_text(text[0], text[1], of=other, overwrite=overwrite)
    elif of is None or len(of) == 1:
        selection.write_tsv(text[0], of=None if of is None else of[0], overwrite=overwrite)
    else:
        raise PycatError("--of names two files and --text one; expected two to write")
    print("  text: " + ", ".join(map(str, text)))


def summary(selection: Selection) -> str:
    """How much was kept, by what, what was dropped before, and what explains it, in lines."""
    return "\n".join((_kept(selection), *_dropped(selection), _explanation(selection)))


def _kept(selection: Selection) -> str:
    facts = selection.manifest
    whole_top = "part" not in facts["recipe"] and not isinstance(facts["recipe"]["keep"], list)
    to = "up" if whole_top else f"to {facts['highest']:,.4g}"
    return (
        f"{selection.path}: kept {facts['num_kept']:,} of {facts['num_pairs']:,} pairs by "
        f"{facts['recipe']['criterion']} ({facts['num_kept'] / facts['num_pairs']:.1%}; "
        f"{facts['num_tokens_kept'] / facts['num_tokens']:.1%} of the target tokens), scores "
        f"from {facts['threshold']:,.4g} {to}"
    )


def _dropped(selection: Selection) -> list[str]:
    """What each step dropped, where there is more than the criterion."""
    facts = selection.manifest
    dropped, lines = facts["dropped"], []
    if asked := facts.get("asked"):
        lines.append(
            f"  fewer than the {asked:,} {facts['recipe'].get('unit', 'pairs')} asked for: the "
            "rules leave no more"
        )
    if hits := facts.get("rule_hits"):
        counts = ", ".join(f"{rule} {count:,}" for rule, count in hits.items() if count)
        lines.append(
            f"  rules dropped {dropped['rules']:,} pairs (each may break several: "
            f"{counts or 'none did'})"
        )
    # A reason that holds for all rules is said once.
    for why in dict.fromkeys(facts.get("without", {}).values()):
        missing = [rule for rule, reason in facts["without"].items() if reason == why]
        lines.append(f"  not applied: {', '.join(missing)}; {why}")
    later = [f"{step} {count:,}" for step, count in dropped.items() if step != "rules"]
    if len(later) > 1 or lines:
        lines.append(f"  then dropped: {', '.join(later)}")
    return lines


def _explanation(selection: Selection) -> str:
    facts = selection.manifest
    explained = facts["explained"]
    dropped = facts["mean_tokens_dropped"]
    follows = ", ".join(
        f"{name} {'-' if rho is None else f'{rho:+.2f}'}"
        for name, rho in explained["spearman"].items()
    )
    r2 = "" if explained["r2"] is None else f" (together {explained['r2']:.0%} of its variance)"
    return (
        f"  kept pairs have {facts['mean_tokens_kept']:.1f} target tokens on average, dropped ones "
        f"{'-' if dropped is None else f'{dropped:.1f}'}; rank correlation of the score with "
        f"{follows}{r2}"
    )


def with_criteria(words: Sequence[str]) -> list[str]:
    """Join `--by -ppl` to `--by=-ppl`: argparse takes a word that begins with "-" for an option."""
    joined: list[str] = []
    for word in words:
        negated = word.startswith("-") and word[1:2].isalpha() and word != "-h"
        if negated and joined and joined[-1] in ("--by", "--drop", "--then"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _fraction(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a fraction, such as 0.5") from None


def _fractions(text: str) -> float | tuple[float, float]:
    low, colon, high = text.partition(":")
    return (_fraction(low), _fraction(high)) if colon else _fraction(low)


def _criterion_share(text: str) -> tuple[str, float]:
    criterion, colon, share = text.rpartition(":")
    if not colon or not criterion:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a criterion and a fraction, such as el2n:0.2"
        )
    return criterion, _fraction(share)


def _cap(text: str) -> tuple[str, int]:
    column, _, most = text.rpartition(":")
    if not column or not most.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a column and a number of pairs, such as duplicate_group:1"
        )
    return column, int(most)
