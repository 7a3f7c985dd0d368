"""The recipe of a selection: the options of `select`, checked, and as a manifest records them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pycat.errors import PycatError
from pycat.ranking.criteria import (
    Criterion,
    check_criterion,
    criterion_name,
    is_of,
    uses_seed,
)
from pycat.scores.score_table import ScoreTable
from pycat.selection import strata

PARTS = ("top", "middle", "bottom")
UNITS = ("pairs", "tokens")

# Criteria of `select` and `prune` where none is given: by the proxy and by what was measured of the
# text, cut within clusters of the proxy's states where the table has them; by the proxy alone; and
# without a proxy. docs/evidence.md has why none is cat_var, the paper's.
DEFAULT_CRITERION = "learnability+noise"
PROXY_CRITERION = "learnability"
FAST_CRITERION = "noise"
DEFAULT_STRATA = "cluster"
# Strata of a table that nobody has added a column to.
KNOWN_STRATA = (DEFAULT_STRATA, "length", "score")

NUM_STRATA = {"score": 50, "length": 10}


def default_criterion(has_proxy: bool, is_measured: bool) -> str:
    """The criterion where none is given.

    Args:
        has_proxy: whether the table has checkpoints.
        is_measured: whether a step reads what was measured of the text.
    """
    if not has_proxy:
        return FAST_CRITERION
    return DEFAULT_CRITERION if is_measured else PROXY_CRITERION


@dataclass(frozen=True)
class Recipe:
    """How pairs are chosen: the arguments of `select`, `rules` with all thresholds or None.

    Attributes:
        ties: what ranks equal scores: "text", a hash of the pair's tokens and the seed; or "row",
            the lower row first, as selections of earlier versions have it.
    """

    keep: float | tuple[float, float] = 0.5
    by: str | Criterion = DEFAULT_CRITERION
    part: str = "top"
    unit: str = "pairs"
    drop: Mapping[str | Criterion, float] | None = None
    strata: str | None = None
    num_strata: int | None = None
    cap: tuple[str, int] | None = None
    seed: int = 0
    rules: Mapping[str, float | None] | None = None
    guard: float | str = 0.0
    tails: tuple[float, float] | None = None
    mix: float = 0.0
    ties: str = "text"

    @property
    def needs_noise(self) -> bool:
        """Whether a step reads the noise score."""
        return bool(self.guard) or any(
            is_of(by, name)
            for by in (self.by, *(self.drop or {}))
            for name in ("noise", "fitted_noise")
        )

    @property
    def strata_names(self) -> tuple[str, ...]:
        """What strata are made by: "score", "length" or columns; several make their products."""
        return () if self.strata is None else tuple(self.strata.split(","))

    @property
    def bounds(self) -> tuple[float, float]:
        """Where the part of the ranking to keep begins and ends, as fractions."""
        return self.keep if isinstance(self.keep, tuple) else (0.0, self.keep)

    def check(self, table: ScoreTable | None = None) -> None:
        """Refuse what cannot be followed, before any work.

        Raises:
            PycatError: with what was expected.
        """
        low, high = self.bounds
        if not 0 <= low < high <= 1:
            raise PycatError(
                f"keep is {self.keep}; expected a fraction above 0 and at most 1, such as 0.5, or "
                "a range of the ranking, such as (0.2, 0.7)"
            )
        for name, value, known in (("part", self.part, PARTS), ("unit", self.unit, UNITS)):
            if value not in known:
                raise PycatError(f"{name} is {value!r}; expected one of {', '.join(known)}")
        if self.part != "top" and isinstance(self.keep, tuple):
            raise PycatError(
                f"part is {self.part!r} and keep is the range {low} to {high}; pass one of them"
            )
        if self.strata is not None and (self.part != "top" or isinstance(self.keep, tuple)):
            raise PycatError(
                "strata keep the top of each stratum; leave out part, and pass one fraction as keep"
            )
        if self.num_strata is not None:
            if not {*self.strata_names} & {*NUM_STRATA}:
                raise PycatError("num_strata goes with strata 'score' or 'length'; leave it out")
            if not 1 <= self.num_strata <= 10_000:
                raise PycatError(f"num_strata is {self.num_strata}; expected 1 to 10,000")
        if len(self.strata_names) > 1 and "score" in self.strata_names:
            raise PycatError("strata by score stand alone; leave out the others")
        if self.tails is not None and not (
            all(0 <= tail < 1 for tail in self.tails) and sum(self.tails) < 1
        ):
            raise PycatError(
                f"tails are {self.tails}; expected the hardest and the easiest fraction to leave "
                "out, together below 1, such as (0.1, 0.05)"
            )
        if self.tails is not None:
            check_criterion("ppl", table)
        if not 0 <= self.mix < 1:
            raise PycatError(f"mix is {self.mix}; expected a fraction from 0 to below 1")
        if self.mix and (self.part != "top" or isinstance(self.keep, tuple)):
            raise PycatError("mix adds random pairs to the top; leave out part, and pass one keep")
        if self.seed < 0:
            raise PycatError(f"seed is {self.seed}; expected a whole number from 0")
        check_criterion(self.by, table)
        for by, share in (self.drop or {}).items():
            check_criterion(by, table)
            if not 0 < share < 1:
                raise PycatError(
                    f"drop takes {share} by {criterion_name(by)}; expected a fraction between 0 "
                    "and 1, such as 0.2"
                )
        guard = 0.0 if self.guard == "auto" else self.guard
        if isinstance(guard, str) or not 0 <= guard <= 1:
            raise PycatError(
                f"guard is {self.guard}; expected a fraction from 0 to 1 of what has to go, or "
                "'auto'"
            )
        dropped = math.fsum((self.drop or {}).values())
        if dropped + high > 1 + 1e-9:
            raise PycatError(
                f"drop takes {dropped:g} and keep asks for {high:g} of the {self.unit}, together "
                "more than all; fractions count the whole table: lower one of them"
            )
        if self.cap is not None:
            if self.cap[1] < 1:
                raise PycatError(f"cap keeps {self.cap[1]} of a group; expected at least 1")
            if table is not None:
                strata.check_column(table, self.cap[0])
        for name in self.strata_names:
            if table is not None and name not in NUM_STRATA:
                strata.check_column(table, name)

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> "Recipe":
        """What a selection's manifest records, to choose again.

        Raises:
            PycatError: it records no recipe.
        """
        try:
            return cls._recorded(manifest)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise PycatError(
                f"the recipe of the selection cannot be read ({type(error).__name__}: {error}); "
                "run 'pycat select' again"
            ) from None

    @classmethod
    def _recorded(cls, manifest: Mapping[str, Any]) -> "Recipe":
        recipe = manifest["recipe"]
        keep, cap = recipe["keep"], recipe.get("cap")
        return cls(
            keep=(keep[0], keep[1]) if isinstance(keep, list) else keep,
            by=recipe["criterion"],
            part=recipe.get("part", "top"),
            unit=recipe.get("unit", "pairs"),
            drop=dict(recipe.get("drop", ())),
            strata=recipe.get("strata"),
            num_strata=recipe.get("num_strata"),
            cap=None if cap is None else (cap[0], cap[1]),
            seed=recipe["seed"] or 0,
            rules=recipe.get("rules"),
            guard=recipe.get("guard", 0.0),
            tails=None if recipe.get("tails") is None else tuple(recipe["tails"]),
            mix=recipe.get("mix", 0.0),
            ties="text" if "ties" in manifest else "row",
        )

    def json(self, hashes: Mapping[str, str], *, broke_ties: bool = False) -> dict[str, Any]:
        """The recipe as a manifest holds it; options that change nothing are left out."""
        criteria = (self.by, *(self.drop or {}))
        seeded = self.strata == "score" or self.mix > 0 or any(map(uses_seed, criteria))
        # The default seed is not recorded for ties alone, so that older selections still match.
        seeded = seeded or (broke_ties and self.seed != 0)
        recipe: dict[str, Any] = {
            "criterion": criterion_name(self.by),
            "keep": list(self.keep) if isinstance(self.keep, tuple) else self.keep,
            "seed": self.seed if seeded else None,
        }
        if self.part != "top":
            recipe["part"] = self.part
        if self.unit != "pairs":
            recipe["unit"] = self.unit
        if self.rules is not None:
            recipe["rules"] = dict(self.rules)
        if self.guard:
            recipe["guard"] = self.guard
        if self.drop:
            recipe["drop"] = [[criterion_name(by), share] for by, share in self.drop.items()]
        if self.strata is not None:
            recipe["strata"] = self.strata
            for name in {*self.strata_names} & {*NUM_STRATA}:
                recipe["num_strata"] = self.num_strata or NUM_STRATA[name]
        if self.tails is not None:
            recipe["tails"] = [*self.tails]
        if self.mix:
            recipe["mix"] = self.mix
        if self.cap is not None:
            recipe["cap"] = [*self.cap]
        if hashes:
            recipe["hashes"] = dict(hashes)
        return recipe
