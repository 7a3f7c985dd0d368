"""Export of a selection to trainers that mix or sample their training text."""

import json
from contextlib import ExitStack
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pycat.data.text_files import compressing
from pycat.filters.measures import Measures
from pycat.ranking.criteria import Scores
from pycat.ranking.ranks import average_ranks
from pycat.ranking.top_k import chunked
from pycat.runtime.named_files import writing
from pycat.scores.score_table import ScoreTable, as_table
from pycat.scores.unscored import unscored
from pycat.selection.replaying import choose_again
from pycat.selection.selection import Selection, refuse_own_text

# In the order in which they are written.
_FILES = ("kept.tsv.gz", "rest.tsv.gz", "opustrainer.yml", "weights.txt")
# OpusTrainer 0.5 reads int(weight * lines of a batch), of 100 lines by default: below 0.01 nothing,
# so that a stage that waits for these lines never ends.
_MIN_WEIGHT = 0.02
_STAGES = """\
# Gradual fine-tuning: first all text but the noise, then more and more of what was kept.
datasets:
  kept: {kept_file}
  rest: {rest_file}

stages:
  - everything
  - mostly_kept
  - only_kept

everything:
  - kept {kept:.4f}
  - rest {rest:.4f}
  - until rest 1

mostly_kept:
  - kept {more:.4f}
  - rest {less:.4f}
  - until kept 2
"""
_ONE_STAGE = """\
# The criterion left out no pair, so there is no rest to begin with.
datasets:
  kept: {kept_file}

stages:
  - only_kept
"""
_LAST_STAGE = """
only_kept:
  - kept 1.0
  - until kept inf

seed: 1
num_fields: {num_fields}
trainer: cat
"""
# A side of two files may hold these, which end a column or a line for OpusTrainer.
_BLANKS = bytes.maketrans(b"\t\r", b"  ")


def config(
    kept_file: Path, rest_file: Path, num_kept: int, num_rest: int, num_fields: int = 2
) -> str:
    """OpusTrainer's configuration: stages with more and more of the kept pairs.

    Weights are their shares of what is mixed, but none is below 0.02, which small batches would
    round to no line at all. Without a rest there is one stage.
    """
    kept = num_kept / (num_kept + num_rest)
    lowest, highest = _MIN_WEIGHT, 1 - _MIN_WEIGHT
    more = min((1 + kept) / 2, highest)
    kept = min(max(kept, lowest), highest)
    stages = _STAGES if num_rest else _ONE_STAGE
    return (stages + _LAST_STAGE).format(
        kept_file=json.dumps(str(kept_file)),
        rest_file=json.dumps(str(rest_file)),
        kept=kept,
        rest=1 - kept,
        more=more,
        less=1 - more,
        num_fields=num_fields,
    )


def export_opustrainer(
    selection: Selection | str | PathLike[str],
    scores: ScoreTable | str | PathLike[str] | None = None,
    *,
    out: str | PathLike[str],
    measures: Measures | str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write what OpusTrainer needs to train on a selection in stages, and weights for others.

    The folder holds `kept.tsv.gz`; `rest.tsv.gz`, the pairs that the criterion left out, maybe
    none; the configuration `opustrainer.yml`, whose trainer is `cat` until another is named; and
    `weights.txt`, a number for each line of the text. What rules, noise filter and other steps
    dropped, and what stands above a range or a middle, is neither kept nor rest. A weight is 0 for
    those, and otherwise a pair's rank over the number of ranked pairs: first the rest from its
    worst pair to its best, then the kept pairs from the worst to the best. Tabs and carriage
    returns within a side become blanks. Files that are as they would be written stay as they are.

    Args:
        selection: a Selection, or the path of one, of a corpus made from text.
        scores: the table that it was made from; None where it was made from a corpus.
        out: the folder to make.
        measures: as in `select`.
        overwrite: replace files that are there.

    Returns:
        Path of the configuration.

    Raises:
        PycatError: the selection is of another table, or cannot be made again.
        CorpusError, TextError: the corpus was not made from text, or that is gone or changed.
        OutputError: a file is there that holds something else, and `overwrite` is not given; or one
            is the text itself.
    """
    chosen = selection if isinstance(selection, Selection) else Selection.open(selection)
    corpus = chosen.corpus()
    table = unscored(corpus) if scores is None else as_table(scores)
    choice = choose_again(chosen, table, table.view_of(corpus), measures)
    rest = (choice.left_out == 0) & ~choice.kept
    scores_up = -choice.scores if choice.recipe.get("part") == "bottom" else choice.scores
    lines, text = corpus.lines[table.pair_ids], corpus.text()
    file_of = np.full(chosen.manifest["num_lines"], -1, dtype=np.int8)
    file_of[lines[choice.kept]], file_of[lines[rest]] = 0, 1
    weights = np.zeros(len(file_of))
    weights[lines] = _weights(scores_up, choice.kept, rest)
    folder = Path(out)
    paths = [folder / name for name in _FILES]
    refuse_own_text(text.paths, paths)
    folder.mkdir(parents=True, exist_ok=True)
    with writing(paths, overwrite=overwrite, same_is_done=True) as files, ExitStack() as stack:
        *pairs, config_file, weights_file = (
            stack.enter_context(compressing(file, path))
            for file, path in zip(files, paths, strict=True)
        )
        # OpusTrainer skips lines of which a column is empty, as the source of one language is.
        first_side = 1 if text.monolingual else 0
        for number, row in enumerate(text.rows()):
            if file_of[number] >= 0:
                sides = text.sides(row, number + 1)[first_side:]
                line = b"\t".join(side.translate(_BLANKS) for side in sides)
                pairs[file_of[number]].write(line + b"\n")
        num_kept, num_rest = (int(np.count_nonzero(file_of == i)) for i in (0, 1))
        kept_file, rest_file = (folder.resolve() / name for name in _FILES[:2])
        told = config(kept_file, rest_file, num_kept, num_rest, 2 - first_side)
        config_file.write(told.encode())
        for some in chunked(len(weights)):
            weights_file.write("".join(f"{w:.10g}\n" for w in weights[some].tolist()).encode())
    return folder / "opustrainer.yml"


def _weights(
    scores: Scores, kept: NDArray[np.bool_], rest: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Ranks (N,) of the rest, then of the kept pairs, over their number; 0 for all others."""
    ranks = np.zeros(len(scores))
    num_rest = np.count_nonzero(rest)
    ranks[rest] = average_ranks(scores[rest])
    ranks[kept] = num_rest + average_ranks(scores[kept])
    return ranks / (num_rest + np.count_nonzero(kept))
