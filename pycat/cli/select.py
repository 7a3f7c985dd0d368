"""The verbs `select` and `apply`: options, and what they print."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pycat
from pycat.cli.options import (
    column_and_count,
    criterion_and_fraction,
    fraction_or_auto,
    fraction_or_range,
    measures_option,
    option,
    out_option,
    overwrite_option,
    two_fractions,
)
from pycat.cli.stages import OpenOptions, open_group
from pycat.errors import PycatError
from pycat.runtime.named_files import is_standard_output
from pycat.scores.criterion_names import CRITERION_NAMES

if TYPE_CHECKING:
    from pycat.selection.selection import Selection

CRITERION_HELP = (
    f"Rank by this criterion: {', '.join(CRITERION_NAMES)}; a column of the table, or "
    '"sql: …"; a "-" before it ranks the lowest first, as in "-ppl"; '
    'a "+" between several averages their ranks.'
)
RULES_HELP = (
    "Drop pairs for their text alone, such as copies, other languages, loops and duplicates, by "
    "these rules; a JSON file gives thresholds (docs/selection.md lists them)."
)
GUARD_HELP = (
    "Of the pairs that have to go, drop this fraction for being the likeliest noise; 0 drops none, "
    "and auto drops as many as are estimated to be noise."
)


def guard_option() -> Any:
    """`--guard`, which `--noise` says too."""
    return option(GUARD_HELP, 0.5, type=fraction_or_auto, metavar="X|auto", aliases=("--noise",))


@dataclass(frozen=True, kw_only=True)
class Select:
    """Keep the pairs that a criterion ranks highest.

    Rules and a guard drop likely noise first, by what measure measured. Plain CAT-VAR, the paper's
    method, is --by cat_var --rules none --guard 0.
    """

    out: Path | None = out_option(
        "Make this folder. A finished one of the same options is not made again.", None
    )
    overwrite: bool = overwrite_option()
    scores: Path | None = option(
        "Rank the pairs of the table in this folder, made by score.", None, metavar="FOLDER"
    )
    corpus: list[Path] | None = option(
        "Instead of --scores, rank the pairs of the corpus in this folder, by a criterion that "
        "needs no proxy, such as noise.",
        None,
        metavar="FOLDER",
        nargs="+",
        type=Path,
    )
    keep: float | tuple[float, float] = option(
        "Keep this fraction of all pairs, above 0 and at most 1, or this range of the ranking.",
        0.5,
        type=fraction_or_range,
        metavar="X[:X]",
    )
    by: str | None = option(
        f"{CRITERION_HELP} Without it: learnability+noise within clusters, where the "
        "table has them, or noise of a --corpus.",
        None,
        metavar="CRITERION",
    )
    rules: str = option(RULES_HELP, "default", metavar="default|none|FILE")
    guard: float | str = guard_option()
    measures: Path | None = measures_option()
    part: Literal["top", "middle", "bottom"] = option("Keep this part of the ranking.", "top")
    unit: Literal["pairs", "tokens"] = option("Count these in fractions.", "pairs")
    drop: Sequence[tuple[str, float]] | None = option(
        "First leave out this fraction of a criterion's highest scores. It may be given several "
        "times.",
        None,
        type=criterion_and_fraction,
        action="append",
        metavar="CRITERION:X",
    )
    then: tuple[str, float] | None = option(
        "This is short for --by CRITERION --keep X.",
        None,
        type=criterion_and_fraction,
        metavar="CRITERION:X",
    )
    strata: str | None = option(
        "Keep the same share of each length, or of each value of a column such as a domain, or of "
        "each combination where several are given with commas; or, "
        "by score, equal numbers of each, drawn at random (coverage-centric selection).",
        None,
        metavar="score|length|COLUMN[,…]",
    )
    num_strata: int | None = option(
        "Make this many strata; without it, 50 by score and 10 by length.", None
    )
    tails: tuple[float, float] | None = option(
        "First leave out these fractions of each stratum, or of all: the hardest and the easiest, "
        "by perplexity at the last checkpoint.",
        None,
        type=two_fractions,
        metavar="X:X",
    )
    mix: float = option(
        "Draw this share of what is kept at random from all that is left before the cut.", 0.0
    )
    cap: tuple[str, int] | None = option(
        "Keep at most N pairs of each group; a column of ids tells the groups.",
        None,
        type=column_and_count,
        metavar="COLUMN:N",
    )
    seed: int = option("Seed the criterion random, and strata by score, with this number.", 0)
    export: Literal["opustrainer"] | None = option(
        "Also write, into a folder named after --out, kept pairs and the rest as data sets with "
        "stages for OpusTrainer, and a weight for each line of the text.",
        None,
    )
    opening: OpenOptions = open_group()
    text: list[Path] | None = option(
        "Also write the kept lines: into a source and a target file, or into one file where the "
        "input is one: TSV, or Parquet or JSON Lines with all columns.",
        None,
    )

    def run(self) -> None:
        """Select, print what was kept, and write its text where asked."""
        if (self.scores is None) == (self.corpus is None):
            raise PycatError("select: expected either --scores FOLDER or --corpus FOLDER")
        if self.export is not None and self.out is None:
            raise PycatError("select: --export needs --out FOLDER, beside which it writes")
        selection = pycat.select(
            self.scores or self.opening.open(self.corpus or ()),
            out=self.out,
            overwrite=self.overwrite,
            measures=self.measures,
            **self.arguments(),
        )
        # Text on standard output stands there alone.
        to_text = self.text is not None and any(map(is_standard_output, self.text))
        print(summary(selection), file=sys.stderr if to_text else sys.stdout)
        if self.export is not None and self.out is not None:
            config = pycat.export_opustrainer(
                selection,
                self.scores,
                out=self.out.with_name(f"{self.out.name}-{self.export}"),
                measures=self.measures,
                overwrite=self.overwrite,
            )
            print(f"  export: {config}", file=sys.stderr if to_text else sys.stdout)
        if self.text is not None:
            _write_text(selection, self.text, None, self.overwrite)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `pycat.select` that say what to keep."""
        by, keep = self.by, self.keep
        if self.then is not None:
            if (by, keep) != (Select.by, Select.keep):
                raise PycatError("select: --then C:F says --by C --keep F; leave those two out")
            by, keep = self.then
        drop: dict[Any, float] = dict(self.drop or ())
        if len(drop) < len(self.drop or ()):
            raise PycatError("select: --drop names a criterion twice; add up its fractions")
        return {
            "keep": keep,
            "by": by,
            "rules": self.rules,
            "guard": self.guard,
            "part": self.part,
            "unit": self.unit,
            "drop": drop,
            "strata": self.strata,
            "num_strata": self.num_strata,
            "cap": self.cap,
            "tails": self.tails,
            "mix": self.mix,
            "seed": self.seed,
        }


@dataclass(frozen=True, kw_only=True)
class Apply:
    """Write the kept lines of the text, or of other files of the same lines."""

    selection: Path = option(
        "Take the pairs kept in this folder, made by select.", metavar="FOLDER"
    )
    text: list[Path] = option(
        "Write a source and a target file, or one file where the input is one: TSV, Parquet or "
        "JSON Lines."
    )
    of: list[Path] | None = option(
        "Read these two files, or this TSV file, in place of the text that was tokenized.", None
    )
    overwrite: bool = option("Replace files that exist.", False)

    def run(self) -> None:
        """Write, and print the names."""
        _write_text(pycat.Selection.open(self.selection), self.text, self.of, self.overwrite)


def _write_text(
    selection: "Selection", text: list[Path], of: list[Path] | None, overwrite: bool
) -> None:
    """The kept lines of the corpus's text, or of `of`: two files, or one that is tab-separated."""
    for name, files in (("--text", text), ("--of", of or ())):
        if len(files) > 2:
            raise PycatError(f"{name} names {len(files)} files; expected source and target, or one")
    if len(text) == 2:
        other = of if of is None else of[0] if len(of) == 1 else (of[0], of[1])
        selection.write_text(text[0], text[1], of=other, overwrite=overwrite)
    elif of is None or len(of) == 1:
        selection.write_one(text[0], of=None if of is None else of[0], overwrite=overwrite)
    else:
        raise PycatError("--of names two files and --text one; expected two to write")
    shown = sys.stderr if any(map(is_standard_output, text)) else sys.stdout
    print("  text: " + ", ".join(map(str, text)), file=shown)


def summary(selection: "Selection") -> str:
    """How much was kept, by what, what was dropped before, and what explains it, in lines."""
    return "\n".join((_kept(selection), *_dropped(selection), _explanation(selection)))


def _kept(selection: "Selection") -> str:
    manifest = selection.manifest
    whole_top = "part" not in manifest["recipe"] and not isinstance(
        manifest["recipe"]["keep"], list
    )
    to = "up" if whole_top else f"to {manifest['highest']:,.4g}"
    return (
        f"{selection.path}: kept {manifest['num_kept']:,} of {manifest['num_pairs']:,} pairs by "
        f"{manifest['recipe']['criterion']} ({manifest['num_kept'] / manifest['num_pairs']:.1%}; "
        f"{manifest['num_tokens_kept'] / manifest['num_tokens']:.1%} of the target tokens), scores "
        f"from {manifest['threshold']:,.4g} {to}"
    )


def _dropped(selection: "Selection") -> list[str]:
    """What each step dropped, where there is more than the criterion."""
    from pycat.filters.loud_rules import loud_rules_in_words
    from pycat.filters.rules import hits_in_words

    manifest = selection.manifest
    dropped, lines = manifest["dropped"], []
    if asked := manifest.get("asked"):
        lines.append(
            f"  fewer than the {asked:,} {manifest['recipe'].get('unit', 'pairs')} asked for: the "
            "rules leave no more"
        )
    if hits := manifest.get("rule_hits"):
        lines.append(
            f"  rules dropped {dropped['rules']:,} pairs (each may break several: "
            f"{hits_in_words(hits)})"
        )
    if share := manifest.get("noise_share"):
        kinds = ", ".join(f"{kind} {of_kind:.1%}" for kind, of_kind in share["kinds"].items())
        lines.append(
            f"  noise: {share['share']:.1%} of what the rules leave, {share['low']:.1%} to "
            f"{share['high']:.1%} ({kinds})"
        )
    lines += loud_rules_in_words(manifest.get("loud_rules", {}), manifest["num_pairs"])
    # A reason that holds for all rules is said once.
    for why in dict.fromkeys(manifest.get("without", {}).values()):
        missing = [rule for rule, reason in manifest["without"].items() if reason == why]
        lines.append(f"  not applied: {', '.join(missing)}; {why}")
    if "num_random" in manifest:
        lines.append(f"  of the kept pairs {manifest['num_random']:,} are drawn at random")
    later = [f"{step} {count:,}" for step, count in dropped.items() if step != "rules"]
    if len(later) > 1 or lines:
        lines.append(f"  then dropped: {', '.join(later)}")
    for step, counts in manifest.get("ties", {}).items():
        lines.append(
            f"  equal scores at the cut ({step}): {counts['num_pairs']:,} pairs, of which "
            f"{counts['num_before']:,} rank before it by a hash of their text"
        )
    return lines


def _explanation(selection: "Selection") -> str:
    manifest = selection.manifest
    explained = manifest["explained"]
    dropped = manifest["mean_tokens_dropped"]
    follows = ", ".join(
        f"{name} {'-' if rho is None else f'{rho:+.2f}'}"
        for name, rho in explained["spearman"].items()
    )
    r2 = "" if explained["r2"] is None else f" (together {explained['r2']:.0%} of its variance)"
    return (
        f"  kept pairs have {manifest['mean_tokens_kept']:.1f} target tokens on average, dropped "
        f"ones {'-' if dropped is None else f'{dropped:.1f}'}; rank correlation of the score with "
        f"{follows}{r2}"
    )
