"""pycat: data pruning for machine translation by Checkpoints Across Time."""

import os

# Before torch loads OpenMP: a team that spins while it waits loses far more than its share where
# another process takes a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from pycat.adapters import Adapter, Head
from pycat.baselines import add_baseline
from pycat.corpus import Corpus, open_corpus
from pycat.errors import (
    CheckpointError,
    CorpusError,
    OutputError,
    PycatError,
    TextError,
    TokenizerError,
)
from pycat.evaluation import Evaluation, evaluate
from pycat.explaining import Explanation, explain
from pycat.line_scores import score_lines
from pycat.overlap import Stability, jaccard, stability
from pycat.pruning import Pruned, prune
from pycat.rule_measures import measure_rules
from pycat.rules import DEFAULT_RULES, RuleTable
from pycat.score_table import ScoreTable
from pycat.scoring import score
from pycat.selection import Selection, select
from pycat.tokenizing import tokenize
from pycat.training import Run, train

__all__ = [
    "DEFAULT_RULES",
    "Adapter",
    "CheckpointError",
    "Corpus",
    "CorpusError",
    "Evaluation",
    "Explanation",
    "Head",
    "OutputError",
    "Pruned",
    "PycatError",
    "RuleTable",
    "Run",
    "ScoreTable",
    "Selection",
    "Stability",
    "TextError",
    "TokenizerError",
    "add_baseline",
    "evaluate",
    "explain",
    "jaccard",
    "measure_rules",
    "open_corpus",
    "prune",
    "score",
    "score_lines",
    "select",
    "stability",
    "tokenize",
    "train",
]
__version__ = "0.1.0"
