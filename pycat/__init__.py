"""pycat: data pruning for machine translation by Checkpoints Across Time."""

import os

from pycat.errors import (
    CheckpointError,
    CorpusError,
    OutputError,
    PycatError,
    TextError,
    TokenizerError,
)

# Before torch loads OpenMP: a team that spins while it waits loses far more than its share where
# another process takes a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# True for type checkers. The module typing has such a name too, but takes longer to import than all
# else here, and until the command line looks after Ctrl-C that ends in a traceback.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from pycat.data.corpus import Corpus
    from pycat.data.opening import open_corpus
    from pycat.data.tokenizing import tokenize
    from pycat.evaluation.evaluation import evaluate
    from pycat.evaluation.results import Evaluation
    from pycat.filters.measures import Measures, measure
    from pycat.filters.rules import DEFAULT_RULES
    from pycat.proxy.run import Run
    from pycat.proxy.training import train
    from pycat.pruning import Pruned, prune
    from pycat.report.evaluation_page import write_evaluation_page
    from pycat.report.explaining import Explanation, explain
    from pycat.scores.merge import merge_scores
    from pycat.scores.score_table import ScoreTable
    from pycat.scoring.adapter import Adapter, Head
    from pycat.scoring.clusters import add_clusters
    from pycat.scoring.derived import add_average, add_cld
    from pycat.scoring.engine import score
    from pycat.scoring.external_scorers import add_baseline
    from pycat.scoring.line_scores import score_lines
    from pycat.scoring.trusted import add_trusted
    from pycat.selection.export import export_opustrainer
    from pycat.selection.selecting import select
    from pycat.selection.selection import Selection
    from pycat.selection.stability import Stability, jaccard, stability
    from pycat.verification import Checked, check

__all__ = [
    "DEFAULT_RULES",
    "Adapter",
    "Checked",
    "CheckpointError",
    "Corpus",
    "CorpusError",
    "Evaluation",
    "Explanation",
    "Head",
    "Measures",
    "OutputError",
    "Pruned",
    "PycatError",
    "Run",
    "ScoreTable",
    "Selection",
    "Stability",
    "TextError",
    "TokenizerError",
    "add_average",
    "add_baseline",
    "add_cld",
    "add_clusters",
    "add_trusted",
    "check",
    "evaluate",
    "explain",
    "export_opustrainer",
    "jaccard",
    "measure",
    "merge_scores",
    "open_corpus",
    "prune",
    "score",
    "score_lines",
    "select",
    "stability",
    "tokenize",
    "train",
    "write_evaluation_page",
]
__version__ = "0.1.0"

# Where each public name is; its module is imported when it is first asked for (PEP 562), since
# torch alone takes seconds.
_MODULES = {
    "Corpus": "pycat.data.corpus",
    "open_corpus": "pycat.data.opening",
    "tokenize": "pycat.data.tokenizing",
    "evaluate": "pycat.evaluation.evaluation",
    "Evaluation": "pycat.evaluation.results",
    "Measures": "pycat.filters.measures",
    "measure": "pycat.filters.measures",
    "DEFAULT_RULES": "pycat.filters.rules",
    "Run": "pycat.proxy.run",
    "train": "pycat.proxy.training",
    "Pruned": "pycat.pruning",
    "prune": "pycat.pruning",
    "write_evaluation_page": "pycat.report.evaluation_page",
    "Explanation": "pycat.report.explaining",
    "explain": "pycat.report.explaining",
    "merge_scores": "pycat.scores.merge",
    "ScoreTable": "pycat.scores.score_table",
    "Adapter": "pycat.scoring.adapter",
    "Head": "pycat.scoring.adapter",
    "score": "pycat.scoring.engine",
    "add_average": "pycat.scoring.derived",
    "add_cld": "pycat.scoring.derived",
    "add_clusters": "pycat.scoring.clusters",
    "add_baseline": "pycat.scoring.external_scorers",
    "add_trusted": "pycat.scoring.trusted",
    "score_lines": "pycat.scoring.line_scores",
    "export_opustrainer": "pycat.selection.export",
    "Selection": "pycat.selection.selection",
    "select": "pycat.selection.selecting",
    "Stability": "pycat.selection.stability",
    "jaccard": "pycat.selection.stability",
    "stability": "pycat.selection.stability",
    "Checked": "pycat.verification",
    "check": "pycat.verification",
}

if not TYPE_CHECKING:  # for a type checker, any name would be there

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
