"""Export of a selection to trainers that mix or sample their training text."""

import json
from os import PathLike
from pathlib import Path

import numpy as np

from pycat.data.parallel_text import write_rows
from pycat.errors import OutputError, PycatError
from pycat.filters.measures import Measures
from pycat.ranking.ranks import average_ranks
from pycat.runtime.output import digest, replacing
from pycat.scores.score_table import ScoreTable, as_table
from pycat.scores.unscored import unscored
from pycat.selection.recipe import Recipe
from pycat.selection.selecting import choose_measured
from pycat.selection.selection import Selection

_FILES = ("kept.tsv.gz", "rest.tsv.gz", "opustrainer.yml", "weights.txt")
_CONFIG = """\
# Gradual fine-tuning: first all text but the noise, then more and more of what was kept.
datasets:
  kept: {files[0]}
  rest: {files[1]}

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

only_kept:
  - kept 1.0
  - until kept inf

seed: 1
num_fields: 2
trainer: cat
"""


def _without_tabs(src: bytes, tgt: bytes) -> tuple[bytes, bytes]:
    """Both sides with blanks for tabs, which a side of two files may hold."""
    return src.replace(b"\t", b" "), tgt.replace(b"\t", b" ")


def export_opustrainer(
    selection: Selection | str | PathLike[str],
    scores: ScoreTable | str | PathLike[str] | None = None,
    *,
    out: str | PathLike[str],
    measures: Measures | str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write what OpusTrainer needs to train on a selection in stages, and weights for others.

    The folder holds `kept.tsv.gz`; `rest.tsv.gz`, the pairs that the criterion left out; the
    configuration `opustrainer.yml`, whose trainer is `cat` until another is named; and
    `weights.txt`, a number for each line of the text. What rules, noise filter and other steps
    dropped is neither kept nor rest. A weight is 0 for those, and otherwise the share of the ranked
    pairs whose score is as low or lower.

    Args:
        selection: a Selection, or the path of one, of a corpus made from text.
        scores: the table that it was made from; None where it was made from a corpus.
        out: the folder to make.
        measures: as in `select`.
        overwrite: replace files that are there.

    Returns:
        Path of the configuration.

    Raises:
        PycatError: the selection is of another table, or cannot be made again; or it leaves no
            rest.
        CorpusError, TextError: the corpus was not made from text, or that is gone or changed.
        OutputError: a file is there, and `overwrite` is not given.
    """
    chosen = selection if isinstance(selection, Selection) else Selection.open(selection)
    corpus = chosen.corpus()
    table = unscored(corpus) if scores is None else as_table(scores)
    if chosen.manifest["recipe"]["scores"] != digest(table.manifest["recipe"]):
        raise PycatError(
            f"{chosen.path or 'selection'}: made from another score table than "
            f"{table.path or 'the corpus alone'}; pass the one that it was made from"
        )
    recipe = Recipe.of_manifest(chosen.manifest)
    recipe.check(table)
    choice, _ = choose_measured(table, table.view_of(corpus), recipe, measures)
    ranked = choice.left_out == 0
    rest = ranked & ~choice.kept
    if not rest.any():
        raise PycatError(
            f"{chosen.path or 'selection'}: the criterion left out no pair, so there is no rest to "
            "begin with; train on the kept text"
        )
    folder = Path(out)
    for name in _FILES:
        if (folder / name).exists() and not overwrite:
            raise OutputError(
                f"{folder / name}: this file exists; pass --overwrite (overwrite=True) to replace "
                "it, or choose another folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    lines = corpus.lines[table.pair_ids]
    text = corpus.text()
    for name, rows in (("kept", choice.kept), ("rest", rest)):
        wanted = np.zeros(chosen.manifest["num_lines"], dtype=bool)
        wanted[lines[rows]] = True
        pairs = (
            (b"\t".join(_without_tabs(*text.sides(row, number + 1))) + b"\n",)
            for number, row in enumerate(text.rows())
            if wanted[number]
        )
        write_rows(pairs, (folder / f"{name}.tsv.gz",))
    weights = np.zeros(chosen.manifest["num_lines"])
    weights[lines[ranked]] = average_ranks(choice.scores[ranked]) / np.count_nonzero(ranked)
    with replacing(folder / "weights.txt") as temporary, temporary.open("w") as file:
        file.writelines(f"{weight:.6g}\n" for weight in weights.tolist())
    share = np.count_nonzero(choice.kept) / np.count_nonzero(choice.kept | rest)
    config = folder / "opustrainer.yml"
    with replacing(config) as temporary:
        temporary.write_text(
            _CONFIG.format(
                files=[json.dumps(str(folder.resolve() / name)) for name in _FILES[:2]],
                kept=share,
                rest=1 - share,
                more=(1 + share) / 2,
                less=(1 - share) / 2,
            ),
            "utf-8",
        )
    return config
