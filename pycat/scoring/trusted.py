"""Scores by trusted text: how much tuning on it makes a pair more likely.

    trusted = (nll_before - nll_after) / (target tokens + 5)

nll_before is under a checkpoint of the proxy, and nll_after under the same checkpoint after a few
updates on the trusted pairs. Pairs that resemble those gain most. The 5 damps short targets, of
which a single token would decide.

Source: Moore and Lewis 2010 (ACL), with the difference of neural models as in Wang et al. 2018
(WMT) and CoLoR-Filter, Brandfonbrener et al. 2024 (arXiv:2406.10670).
"""

from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pycat.data.same_tokenizer import FurtherText, text_beside, tokenize_alike
from pycat.errors import PycatError
from pycat.proxy.checkpoint import read_info, read_infos
from pycat.proxy.tuning import tune
from pycat.scores.score_table import ScoreTable, as_table
from pycat.scoring.adapter import ProxyAdapter
from pycat.scoring.engine import score

TrustedText = FurtherText

_DAMPING = 5


def trusted_gain(
    before: NDArray[np.float64], after: NDArray[np.float64], num_tokens: NDArray[np.int32]
) -> NDArray[np.float64]:
    """(before - after) / (tokens + 5) of sums of nll (N,): (N,)."""
    gain: NDArray[np.float64] = (before - after) / (num_tokens + _DAMPING)
    return gain


def add_trusted(
    scores: ScoreTable | str | PathLike[str],
    trusted: TrustedText,
    *,
    checkpoint: str | PathLike[str],
    out: str | PathLike[str],
    name: str = "trusted",
    updates: int | None = None,
    batch_tokens: int | None = None,
    learning_rate: float = 3.5e-4,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    score_dtype: str = "float32",
    base: ScoreTable | None = None,
    overwrite: bool = False,
) -> str:
    """Tune a checkpoint on trusted pairs, score every pair of a table by it, and add a column.

    The trusted pairs should not be test text, and where selections are compared all models should
    train on them too.

    Args:
        scores: an open ScoreTable, or the path of one.
        trusted: 1,000 to 5,000 pairs that are known to be good: two files, or one of both sides as
            a test set of `evaluate`.
        checkpoint: the last one that the table was scored with.
        out: the folder to make: `corpus`, `tuned` and `scores`. What is finished in it is not
            repeated, and an interrupted call goes on.
        name: of the column; several trusted texts get a column each.
        updates, batch_tokens, learning_rate, seed, dtype: of the tuning, as for `tune`.
        device: "cpu", "cuda" or "auto".
        score_dtype: of matrix products while scoring, as for `score`.
        base: the table in `scores` of an earlier call. Its scores are taken over, as by `score`,
            if the same text tuned the same checkpoint.
        overwrite: replace what was made of other text or with other options, the column too.

    Returns:
        The column's name. A column of that name that holds these very values stays as it is.

    Raises:
        PycatError: `checkpoint` is not the table's last, or the name is taken or not allowed.
        CheckpointError, CorpusError, TextError, OutputError: as `tokenize`, `tune` and `score`.
    """
    table, folder = as_table(scores), Path(out)
    if name not in table.manifest.get("columns", ()):
        table.check_name(name)
    info = read_info(checkpoint)
    known = table.manifest["recipe"]["checkpoints"]
    if not known or info.sha256 != known[-1]:
        raise PycatError(
            f"{info.path}: is not the last checkpoint that {table.path or 'the table'} was scored "
            "with, whose nll is compared with that after tuning; pass that one"
        )
    corpus = table.view_of(table.corpus())
    text = text_beside(trusted, corpus)
    good = tokenize_alike(text, corpus, folder / "corpus", overwrite=overwrite)
    made_by = {
        "checkpoint": info.sha256,
        "trusted": good.id,
        "updates": updates,
        "batch_tokens": batch_tokens,
        "learning_rate": learning_rate,
        "seed": seed,
        "dtype": dtype,
        "score_dtype": score_dtype,
    }
    earlier = table.manifest.get("made_by", {}).get(name)
    if earlier not in (None, made_by) and not overwrite:
        raise PycatError(_taken(name, table))
    run = tune(
        good,
        info.path,
        out=folder / "tuned",
        updates=updates,
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
        dtype=dtype,
        overwrite=overwrite,
    )
    # Both checkpoints are scored together, so that they share batches and rounding.
    models = [
        ProxyAdapter(model, corpus.eos_id)
        for model in read_infos([info.path, *run.checkpoints], corpus)
    ]
    if base is not None and base.manifest["recipe"]["checkpoints"] != [m.sha256 for m in models]:
        base = None
    both = score(
        corpus,
        models,
        out=folder / "scores",
        stats="nll",
        device=device,
        dtype=score_dtype,
        base=base,
        overwrite=overwrite,
    )
    before, after = both.nll.T
    gain = trusted_gain(before, after, both.num_tokens)
    if name in table.names:
        if np.array_equal(table.column(name), gain):
            return name
        if not overwrite:
            raise PycatError(_taken(name, table))
        table.remove(name)
    table.add(name, gain, made_by)
    return name


def _taken(name: str, table: ScoreTable) -> str:
    return (
        f"column {name}: {table.path or 'the table'} has it, of other trusted text or options; "
        "give this one another name, or pass --overwrite (overwrite=True) to replace it"
    )
