"""Arms of an evaluation: what each model is trained on."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.selection.selection import Selection

ARMS = ("full", "random", "random-lengths", "selected", "oracle")

HALF = "random-half"

# Random fractions of the target tokens that the curve of effective data is fitted to, beside the
# arm `random` and the whole.
FRACTIONS = {"random-eighth": 1 / 8, "random-quarter": 1 / 4, HALF: 1 / 2}

# An arm `random` of a share between these stands for the half of the curve.
_ABOUT_HALF = (0.4, 0.65)

CLEAN = "clean"


def arm_views(
    corpus: Corpus,
    selection: Selection,
    names: Sequence[str],
    seeds: Sequence[int],
    labels: NDArray[np.str_] | None,
) -> dict[str, list[Corpus]]:
    """The training data of each arm and seed.

    A random arm draws its pairs anew for each seed, and each is cut at the target tokens of the
    selection:

        full                the whole corpus
        selected            the selection
        random              pairs at random
        random-lengths      pairs at random, as many of each target length as the selection has
        oracle              pairs at random of those that `labels` calls clean
        random-eighth,      pairs at random with that share of the corpus's target tokens
        random-quarter,
        random-half
        a path              the pairs of that folder of `select` or `prune`, of the same corpus

    Args:
        corpus: the corpus selected from, of N pairs; or a view of it, without pairs that no arm
            shall train on.
        selection: the selection to judge.
        names: the arms wanted.
        seeds: S seeds.
        labels: (N,), in the order of the pairs; only `oracle` needs them.

    Returns:
        S views of the corpus for each name; the same view S times where nothing is drawn.

    Raises:
        PycatError: an unknown arm, a folder that is named like an arm, a selection of another
            corpus, or labels that are missing.
    """
    tokens = corpus.num_tokens.astype(np.int64)
    kept = np.searchsorted(corpus.pair_ids, selection.pair_ids)
    budget = int(tokens[kept].sum())

    def drawn(draw: Callable[[np.random.Generator], NDArray[np.int64]]) -> list[Corpus]:
        rows = [draw(np.random.default_rng((seed, 1))) for seed in seeds]
        return [corpus.subset(corpus.pair_ids[np.sort(own)]) for own in rows]

    def random(pool: NDArray[np.int64], num_tokens: int) -> list[Corpus]:
        return drawn(lambda rng: up_to_budget(rng.permutation(pool), tokens, num_tokens))

    everything = np.arange(len(corpus))
    views: dict[str, list[Corpus]] = {}
    for given in names:
        name = arm_name(given)
        if name in views:
            raise PycatError(f"arms: two are named {name!r}; give the folder another name")
        if name == "full":
            views[name] = [corpus] * len(seeds)
        elif name == "selected":
            views[name] = [corpus.subset(selection.pair_ids)] * len(seeds)
        elif name == "random":
            views[name] = random(everything, budget)
        elif name == "random-lengths":
            views[name] = drawn(lambda rng: _like_lengths(rng, tokens, kept))
        elif name == "oracle":
            views[name] = random(_clean(labels, len(corpus)), budget)
        elif name in FRACTIONS:
            views[name] = random(everything, round(FRACTIONS[name] * int(tokens.sum())))
        else:
            views[name] = [_of_folder(given, corpus, selection)] * len(seeds)
    return views


def is_built_in(arm: str) -> bool:
    """Whether an arm of this name is drawn here, and no folder's."""
    return arm in ARMS or arm in FRACTIONS


def curve_arms(share: float) -> list[str]:
    """Arms that the curve of effective data is fitted to.

    Args:
        share: of the target tokens of everything that the selection has, and so `random`.
    """
    low, high = _ABOUT_HALF
    smaller = [name for name in FRACTIONS if name != HALF or not low <= share <= high]
    return ["full", *smaller, "random"]


def arm_name(arm: str) -> str:
    """The name of an arm in the results; that of a selection's folder is the folder's.

    Raises:
        PycatError: the folder is named like an arm that is no folder.
    """
    if is_built_in(arm):
        return arm
    name = Path(arm).name  # of a link its own
    if name in ("", ".."):
        name = Path(arm).resolve().name
    if is_built_in(name) or not name:
        raise PycatError(
            f"arm {arm!r}: found a folder named {name!r}, expected a name that is none of "
            f"{', '.join((*ARMS, *FRACTIONS))}, since results go by it; rename the folder"
        )
    return name


def open_selection(path: str | PathLike[str]) -> Selection:
    """The selection in a folder of `select`, or in that of `prune`."""
    inside = Path(path) / "selection"
    return Selection.open(inside if inside.is_dir() else path)


def up_to_budget(
    rows: NDArray[np.int64], num_tokens: NDArray[np.int64], budget: int
) -> NDArray[np.int64]:
    """The first of the rows whose target tokens come closest to the budget; at least one."""
    sums = np.cumsum(num_tokens[rows])
    count = int(np.searchsorted(sums, budget, side="right"))
    if count < len(rows):
        before = budget - (int(sums[count - 1]) if count else 0)
        count += int(sums[count]) - budget < before
    return rows[: max(1, count)]


def _like_lengths(
    rng: np.random.Generator, num_tokens: NDArray[np.int64], kept: NDArray[np.int64]
) -> NDArray[np.int64]:
    """As many random rows of each target length as `kept` has."""
    wanted = np.bincount(num_tokens[kept], minlength=int(num_tokens.max()) + 1)
    order = rng.permutation(len(num_tokens))
    order = order[np.argsort(num_tokens[order], kind="stable")]
    lengths = num_tokens[order]
    firsts = np.searchsorted(lengths, lengths, side="left")
    places = np.arange(len(order)) - firsts  # of each row among those of its length
    return order[places < wanted[lengths]]


def _clean(labels: NDArray[np.str_] | None, num_pairs: int) -> NDArray[np.int64]:
    if labels is None:
        raise PycatError(
            "arms: oracle needs labels, one for each line of the text; pass labels=FILE "
            f"(--labels FILE), in which the good lines say {CLEAN!r}"
        )
    if len(labels) != num_pairs:
        raise PycatError(f"labels: found {len(labels):,}, expected one for each of {num_pairs:,}")
    rows = np.flatnonzero(labels == CLEAN)
    if len(rows) == 0:
        raise PycatError(
            f"labels: none is {CLEAN!r}; found {', '.join(sorted(set(labels.tolist()))[:5])}"
        )
    return rows


def _of_folder(path: str, corpus: Corpus, judged: Selection) -> Corpus:
    """The pairs of another selection from the corpus of the one to judge, as far as `corpus`."""
    if not Path(path).is_dir():
        raise PycatError(
            f"arm {path!r}: no such selection folder, nor one of {', '.join(ARMS)}; pass names "
            "of arms, or folders that 'pycat select' or 'pycat prune' made"
        )
    selection = open_selection(path)
    if selection.manifest["corpus"] != judged.manifest["corpus"]:
        raise PycatError(f"arm {path!r}: its pairs are of another corpus; select from this one")
    return corpus.subset(np.intersect1d(selection.pair_ids, corpus.pair_ids))


def read_labels(path: Path, corpus: Corpus) -> NDArray[np.str_]:
    """The label of each pair, out of a file with one for each line of the corpus's text."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PycatError(f"{path}: the labels cannot be read ({error})") from None
    needed = int(corpus.lines.max()) + 1
    if len(lines) < needed:
        raise PycatError(
            f"{path}: {len(lines):,} labels, expected one for each of the {needed:,} lines that "
            "the corpus was made from"
        )
    return np.array(lines)[corpus.lines]


def mean_num_pairs(views: Mapping[str, list[Corpus]], name: str) -> tuple[int, int]:
    """Pairs and target tokens of an arm, the means of its seeds."""
    own = views[name]
    pairs = np.mean([len(view) for view in own])
    tokens = np.mean([int(view.num_tokens.sum()) for view in own])
    return round(float(pairs)), round(float(tokens))
