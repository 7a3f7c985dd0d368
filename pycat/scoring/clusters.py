"""Clusters of pairs by what the proxy's encoder makes of their sources: domains without labels.

A pair is described by the mean over its source tokens of the encoder's last states, less the mean
of all pairs, at length 1. Spherical k-means on a sample finds the centres; every pair then belongs
to the nearest one.

Source: Aharoni and Goldberg 2020 (ACL), where mean states of pretrained encoders fall into domains.
"""

from collections.abc import Iterator
from os import PathLike

import numpy as np
import torch
from numpy.typing import NDArray

from pycat.data.corpus import Corpus
from pycat.errors import PycatError
from pycat.proxy.checkpoint import load_model, read_infos
from pycat.proxy.transformer import Transformer
from pycat.runtime.device import choose_device
from pycat.runtime.numbers import check_number
from pycat.runtime.progress import progress
from pycat.scores.score_table import ScoreTable, as_table

_NUM_CLUSTERS = 16
_PAIRS_OF_A_CLUSTER = 100
_SAMPLE = 20_000
_ROUNDS = 50
_BATCH_TOKENS = 8192


def add_clusters(
    scores: ScoreTable | str | PathLike[str],
    checkpoint: str | PathLike[str],
    *,
    num_clusters: int | None = None,
    name: str = "cluster",
    seed: int = 0,
    device: str = "auto",
) -> str:
    """Add a column: the cluster of each pair's source, 0 to `num_clusters` - 1, for strata.

    Memory holds the states of at most 20,000 pairs, 4 D bytes each, and 4 bytes of every pair.

    Args:
        scores: an open ScoreTable, or the path of one.
        checkpoint: file of a checkpoint of pycat's; a late one knows more.
        num_clusters: 2 to 1,000; clusters that end empty are left out of the numbering. By default
            16, and fewer where they would hold less than 100 pairs each: one of below 200 pairs.
        name: of the column.
        seed: of the sample and the first centres.
        device: "cpu", "cuda" or "auto".

    Returns:
        The column's name; select by it with `strata`.

    Raises:
        PycatError: an option is out of range, fewer pairs than clusters, or the name is taken or
            not allowed.
        CheckpointError: the checkpoint is missing, damaged, or of another tokenizer.
    """
    if num_clusters is not None:
        check_number("num_clusters", num_clusters, low=2, high=1000)
    table = as_table(scores)
    table.check_name(name)
    corpus = table.view_of(table.corpus())
    if num_clusters is None:
        num_clusters = max(1, min(_NUM_CLUSTERS, len(corpus) // _PAIRS_OF_A_CLUSTER))
    if len(corpus) < num_clusters:
        raise PycatError(
            f"{corpus.path}: holds {len(corpus):,} pairs, expected at least one for each of the "
            f"{num_clusters} clusters; ask for fewer"
        )
    [info] = read_infos([checkpoint], corpus)
    chosen = choose_device(device)
    model = load_model(info, chosen)
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.permutation(len(corpus))[:_SAMPLE])
    states = np.empty((len(sample), model.config.d_model), dtype=np.float32)
    is_whole = len(sample) == len(corpus)
    sampled = corpus if is_whole else corpus.subset(corpus.pair_ids[sample])
    for rows, means in _means(sampled, model, chosen, "cluster" if is_whole else "sample"):
        states[rows] = means
    centre = states.mean(axis=0)
    directions = _directions(states, centre)
    centres = spherical_k_means(directions, num_clusters, rng)
    clusters = np.empty(len(corpus), dtype=np.int32)
    if is_whole:
        clusters[:] = (directions @ centres.T).argmax(axis=1)
    else:
        for rows, means in _means(corpus, model, chosen, "cluster"):
            clusters[rows] = (_directions(means, centre) @ centres.T).argmax(axis=1)
    table.add(name, clusters)
    return name


def spherical_k_means(
    directions: NDArray[np.float32], num_clusters: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Centres (G, D) of length 1, G <= `num_clusters`, of directions (N, D) of length 1.

    The first centres are drawn as k-means++ draws them, with squared chords as distances; a centre
    that loses all its points is left out.

    Sources: Dhillon and Modha 2001; Arthur and Vassilvitskii 2007.
    """
    centres = directions[[rng.integers(len(directions))]]
    nearest = 1 - directions @ centres[0]
    while len(centres) < num_clusters and nearest.max() > 1e-6:
        chances = np.maximum(nearest, 0, dtype=np.float64)
        row = rng.choice(len(directions), p=chances / chances.sum())
        centres = np.concatenate((centres, directions[[row]]))
        nearest = np.minimum(nearest, 1 - directions @ directions[row])
    labels = np.full(len(directions), -1)
    for _ in range(_ROUNDS):
        found = (directions @ centres.T).argmax(axis=1)
        if (found == labels).all():
            break
        labels = found
        sums = np.zeros(centres.shape, dtype=np.float64)
        np.add.at(sums, labels, directions)
        lengths = np.linalg.norm(sums, axis=1)
        kept = lengths > 0
        labels = np.where(kept[labels], labels, -1)
        centres = (sums[kept] / lengths[kept, None]).astype(np.float32)
        if not kept.all():
            labels = np.full(len(directions), -1)  # the centres have other numbers now
    return centres


def _directions(states: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.float32]:
    """States (N, D) less their centre, at length 1; 0 where nothing is left."""
    away = states - centre
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    directions: NDArray[np.float32] = np.divide(
        away, lengths, out=np.zeros_like(away), where=lengths > 1e-9
    )
    return directions


def _means(
    corpus: Corpus, model: Transformer, device: torch.device, what: str
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Rows of the corpus, and the mean encoder states of their sources (rows, D), by batches."""
    pair_ids = corpus.pair_ids
    with (
        progress(what, len(corpus), "pairs") as advance,
        corpus.batches(_BATCH_TOKENS, padded=True) as batches,
        torch.inference_mode(),
    ):
        for batch in batches:
            src = batch.src_tokens.to(device)
            lengths = batch.src_cu_seqlens.diff().to(device)
            states, mask = model.encode(src, lengths)
            shown = mask[:, 0, 0, :, None]
            means = (states * shown).sum(dim=1) / lengths[:, None]
            rows = np.searchsorted(pair_ids, batch.pair_ids.numpy())
            yield rows, means.float().cpu().numpy()
            advance(len(rows))
