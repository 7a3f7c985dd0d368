"""Names of the statistics that are summed for each sequence, for what needs no torch."""

from typing import Literal

Stats = Literal["nll", "all"]

# The rows of the stacked sums, in order; grad_norm_bound only where hidden states are known.
STAT_NAMES = ("nll", "p_target", "correct", "el2n", "margin", "entropy", "grad_norm_bound")
