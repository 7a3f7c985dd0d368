"""Names of the criteria of `ranking.criteria`, for what must not import it."""

# Names of criteria: no added column takes one, except that "rarity" stands in for its criterion.
CRITERION_NAMES = (
    "cat_var",
    "cat_diff",
    "cat_var_log",
    "cat_var_rank",
    "cat_var_clipped",
    "ppl",
    "confidence",
    "variability",
    "correctness",
    "forgetting",
    "aum",
    "el2n",
    "ign",
    "entropy",
    "learnability",
    "noise",
    "fitted_noise",
    "coverage",
    "length",
    "rarity",
    "random",
)
