"""Tuning of a checkpoint on a few pairs, such as trusted ones."""

from os import PathLike
from pathlib import Path

from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.proxy.checkpoint import read_infos
from pycat.proxy.packing import PackedBatches
from pycat.proxy.run import Run
from pycat.proxy.trainer import Arm
from pycat.proxy.training import check_size, train_together

# Passes over the pairs, and the bounds of the updates that they give.
_PASSES = 3
_BATCH_TOKENS = 2048
_MIN_UPDATES, _MAX_UPDATES = 10, 300
# Half of the lowest peak of a preset: the weights are to move, not to be learned anew.
_LEARNING_RATE = 3.5e-4


def tune(
    corpus: Corpus,
    checkpoint: str | PathLike[str],
    *,
    out: str | PathLike[str],
    updates: int | None = None,
    batch_tokens: int | None = None,
    learning_rate: float = _LEARNING_RATE,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
) -> Run:
    """Train a checkpoint further; the rate rises, holds, and falls to zero.

    Args:
        corpus: the pairs to train on, of the checkpoint's tokenizer.
        checkpoint: file of a checkpoint of pycat's.
        out: the folder to make; a run of the same options is resumed, or opened if finished.
        updates: their number; by default three passes over the pairs, but 10 to 300.
        batch_tokens: as for `train`; by default 2,048, but at most a quarter of the target tokens.
        learning_rate, seed, device, dtype, overwrite: as for `train`.

    Returns:
        The run, of one checkpoint.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or of another tokenizer.
        CorpusError: the pairs do not fill a batch.
        PycatError, OutputError: as `train`.
    """
    [info] = read_infos([checkpoint], corpus)
    if batch_tokens is None:
        batch_tokens = min(_BATCH_TOKENS, max(1, int(corpus.num_tokens.sum()) // 4))
    check_size(corpus, batch_tokens)
    if updates is None:
        per_pass = PackedBatches(corpus, batch_tokens, seed=seed).num_batches
        updates = min(_MAX_UPDATES, max(_MIN_UPDATES, _PASSES * per_pass))
    if updates < 1:
        raise PycatError(f"updates is {updates}; expected at least 1")
    [run] = train_together(
        [Arm(corpus, seed, Path(out), info)],
        checkpoint_steps=[updates],
        preset="checkpoint",
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        rate_schedule="wsd",
        device=device,
        dtype=dtype,
        overwrite=overwrite,
    )
    return run
