"""pycat: data pruning for machine translation by Checkpoints Across Time."""

import os

# Before torch loads OpenMP: a team that spins while it waits loses far more than its share where
# another process takes a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from pycat.data.corpus import Corpus, open_corpus
from pycat.data.tokenizing import tokenize
from pycat.errors import (
    CheckpointError,
    CorpusError,
    OutputError,
    PycatError,
    TextError,
    TokenizerError,
)
from pycat.evaluation.evaluation import Evaluation, evaluate
from pycat.filters.rule_measures import measure_rules
from pycat.filters.rules import DEFAULT_RULES, RuleTable
from pycat.proxy.training import Run, train
from pycat.pruning import Pruned, prune
from pycat.report.explaining import Explanation, explain
from pycat.scores.merge import merge_scores
from pycat.scores.score_table import ScoreTable
from pycat.scoring.adapter import Adapter, Head
from pycat.scoring.engine import score
from pycat.scoring.external_scorers import add_baseline
from pycat.scoring.line_scores import score_lines
from pycat.selection.selection import Selection, select
from pycat.selection.stability import Stability, jaccard, stability

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
    "merge_scores",
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
