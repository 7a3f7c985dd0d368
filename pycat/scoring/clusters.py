"""Clusters of pairs by what the proxy's encoder makes of their sources: domains without labels.

A pair is described by the mean over its source tokens of the encoder's last states, less the mean
of all pairs, at length 1. Spherical k-means on a sample finds the centres; every pair then belongs
to the nearest one.

Source: Aharoni and Goldberg 2020 (ACL), where mean states of pretrained encoders fall into domains.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pycat.data.corpus import Corpus
from pycat.data.reopening import CorpusAddress
from pycat.errors import CheckpointError, OutputError, PycatError
from pycat.proxy.checkpoint import CheckpointInfo, load_model, read_infos
from pycat.proxy.transformer import EncoderLayer, Transformer
from pycat.runtime.device import choose_device
from pycat.runtime.locks import Lock, scratch_folder
from pycat.runtime.manifest import read_manifest
from pycat.runtime.numbers import check_number
from pycat.runtime.output import OutputFolder
from pycat.runtime.part_files import Arrays, map_to_files, read_arrays
from pycat.runtime.parts import is_here
from pycat.runtime.progress import progress
from pycat.scores.parts import CLUSTERS_FOLDER
from pycat.scores.score_table import ScoreTable, as_table

_NUM_CLUSTERS = 16
_PAIRS_OF_A_CLUSTER = 100
_SAMPLE = 20_000
_ROUNDS = 50
_BATCH_TOKENS = 8192
# A part is so many batches, or more where there would be too many files.
_PART_BATCHES = 8
_MAX_PARTS = 4096


def add_clusters(
    scores: ScoreTable | str | PathLike[str],
    checkpoint: str | PathLike[str],
    *,
    num_clusters: int | None = None,
    name: str = "cluster",
    seed: int = 0,
    device: str = "auto",
    on: str = "local",
    num_workers: int | None = None,
) -> str:
    """Add a column: the cluster of each pair's source, 0 to `num_clusters` - 1, for strata.

    A table that has the very column is left as it is. Memory holds the states of at most 20,000
    pairs, 4 D bytes each, and 4 bytes of every pair. While they are made, states of the sample and
    clusters of the pairs lie in a folder `clustering` of the table, 12 bytes a pair; the same call
    goes on there after an interruption.

    Args:
        scores: an open ScoreTable, or the path of one.
        checkpoint: file of a checkpoint of pycat's; a late one knows more.
        num_clusters: 2 to 1,000; clusters that end empty are left out of the numbering. By default
            16, and fewer where they would hold less than 100 pairs each: one of below 200 pairs.
        name: of the column.
        seed: of the sample and the first centres.
        device: "cpu", "cuda" or "auto".
        on, num_workers: where sources are encoded, as for `score`; elsewhere than in this process,
            the table is one on the disk. On CPUs of one kind the clusters are the same.

    Returns:
        The column's name; select by it with `strata`.

    Raises:
        PycatError: an option is out of range, fewer pairs than clusters, or the name is taken or
            not allowed; Ray or a cluster is missing, or workers were lost.
        CheckpointError: the checkpoint is missing, damaged, or of another tokenizer.
        OutputError: another process makes clusters of this table.
    """
    if num_clusters is not None:
        check_number("num_clusters", num_clusters, low=2, high=1000)
    here, table = is_here(on, num_workers), as_table(scores)
    if not here and table.path is None:
        raise PycatError(
            f"on={on!r}, num_workers={num_workers}: workers write files; pass a table on the disk, "
            "as pycat.score makes one with out"
        )
    corpus = table.view_of(table.corpus())
    if num_clusters is None:
        num_clusters = max(1, min(_NUM_CLUSTERS, len(corpus) // _PAIRS_OF_A_CLUSTER))
    if len(corpus) < num_clusters:
        raise PycatError(
            f"{corpus.path}: holds {len(corpus):,} pairs, expected at least one for each of the "
            f"{num_clusters} clusters; ask for fewer"
        )
    [info] = read_infos([checkpoint], corpus)
    recipe = {"checkpoint": info.sha256, "num_clusters": num_clusters, "seed": seed}
    table.sweep()
    if _has(table, name, recipe):
        _remove_states(table)
        return name
    table.check_name(name)
    if num_clusters == 1:
        table.add(name, np.zeros(len(corpus), np.int32), {**recipe, "elapsed_s": 0.0})
        return name
    # Workers look for the device themselves, and this machine need not have it.
    is_cuda_elsewhere = not here and device.startswith("cuda")
    chosen = torch.device("cuda") if is_cuda_elsewhere else choose_device(device)
    with ExitStack() as stack:
        place = stack.enter_context(scratch_folder()) if table.path is None else table.path
        made_of = {**recipe, "pairs": corpus.id}
        folder = stack.enter_context(
            OutputFolder(place / CLUSTERS_FOLDER, "clustering", made_of, ("*.npz",), True)
        )
        encoding = _Encoding(info, chosen, folder, on, num_workers)
        # Another process may have added the column before the folder was locked.
        if not _has(table, name, recipe):
            clusters = _clusters(corpus, encoding, num_clusters, seed)
            table.add(name, clusters, {**recipe, "elapsed_s": round(folder.elapsed_s, 3)})
        shutil.rmtree(folder.path, ignore_errors=True)
    return name


def _has(table: ScoreTable, name: str, recipe: Mapping[str, Any]) -> bool:
    """Whether the table has this very column."""
    manifest = table.manifest if table.path is None else read_manifest(table.path, "scores")
    return bool(recipe.items() <= manifest.get("made_by", {}).get(name, {}).items())


def _remove_states(table: ScoreTable) -> None:
    """Delete the states that a call left which was killed when the column was written."""
    folder = None if table.path is None else table.path / CLUSTERS_FOLDER
    if folder is not None and folder.is_dir() and not folder.is_symlink():
        # If the folder is locked, another process needs it, and will delete it.
        with suppress(OutputError, OSError), Lock.of_folder(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _clusters(
    corpus: Corpus, encoding: "_Encoding", num_clusters: int, seed: int
) -> NDArray[np.int32]:
    """The cluster of each of N pairs, (N,)."""
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.permutation(len(corpus))[:_SAMPLE])
    is_whole = len(sample) == len(corpus)
    sampled = corpus if is_whole else corpus.subset(corpus.pair_ids[sample])
    states = np.empty((len(sample), encoding.info.config.d_model), dtype=np.float32)
    for part in encoding.run("cluster" if is_whole else "sample", sampled, None):
        states[part["rows"]] = part["states"]
    centre = states.mean(axis=0)
    directions = _directions(states, centre)
    centres = spherical_k_means(directions, num_clusters, rng)
    if is_whole:
        nearest: NDArray[np.int32] = (directions @ centres.T).argmax(axis=1).astype(np.int32)
        return nearest
    clusters = np.empty(len(corpus), dtype=np.int32)
    for part in encoding.run("cluster", corpus, _Centres(centre, centres)):
        clusters[part["rows"]] = part["clusters"]
    return clusters


def spherical_k_means(
    directions: NDArray[np.float32], num_clusters: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Centres (G, D) of length 1, G <= `num_clusters`, of directions (N, D) of length 1.

    The first centres are drawn as k-means++ draws them, with squared chords as distances; a centre
    that loses all its points is left out. Where all directions are 0, the one centre is 0 too.

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
        if not kept.any():
            return centres[:1]
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


class _Centres(NamedTuple):
    """What states are compared with: the mean (D,) of all, and the centres (G, D) of clusters.

    The mean is subtracted from a state before it is compared with the centres.
    """

    mean: NDArray[np.float32]
    of_clusters: NDArray[np.float32]


@dataclass(frozen=True)
class _Encoding:
    """Encodes sources by one checkpoint, part by part: here, or by workers.

    Attributes:
        info, device: the checkpoint, and where it is loaded.
        folder: takes a file of each part.
        on, num_workers: as for `map_parts`.
    """

    info: CheckpointInfo
    device: torch.device
    folder: OutputFolder
    on: str
    num_workers: int | None

    def run(self, title: str, corpus: Corpus, centres: _Centres | None) -> Iterator[Arrays]:
        """Yield `rows` (n,) of the corpus, and their `states` (n, D), or `clusters` by centres.

        Parts are cut from the batches of the whole corpus: what a batch holds decides how the sums
        of its states are rounded.
        """
        load: Callable[[int], _Part] = _LoadPart(
            CorpusAddress.of(corpus),
            self.info.path.resolve(),
            self.info.sha256,
            self.device,
            centres,
        )
        if is_here(self.on, self.num_workers):
            part = _Part(corpus, load_model(self.info, self.device), self.device, centres)
            load = lambda _: part  # noqa: E731 - in place of the loading of a worker
        num_batches = corpus.num_batches(_BATCH_TOKENS, padded=True)
        size = max(_PART_BATCHES, -(-num_batches // _MAX_PARTS))
        ranges = [
            _Batches(first, min(first + size, num_batches)) for first in range(0, num_batches, size)
        ]
        base = self.folder.path.absolute()
        with progress(title, num_batches, "batches") as advance:

            def done(part: _Batches) -> None:
                advance(part.end - part.first)
                self.folder.record()

            paths = map_to_files(
                load,
                [(base / f"{title}-{i:05}.npz", part) for i, part in enumerate(ranges)],
                done,
                resumes=self.folder.resumes,
                on=self.on,
                num_workers=self.num_workers,
                uses_gpu=self.device.type == "cuda",
            )
        return map(read_arrays, paths)


class _Batches(NamedTuple):
    """A part: batches `first` to `end` of a corpus."""

    first: int
    end: int


@dataclass(frozen=True)
class _LoadPart:
    """Loads, in a worker, what encodes parts of a corpus.

    Attributes:
        corpus, checkpoint, sha256: of the driver; what the worker finds must be the same.
        device, centres: as for `_Part`.
    """

    corpus: CorpusAddress
    checkpoint: Path
    sha256: str
    device: torch.device
    centres: _Centres | None

    def __call__(self, num_threads: int) -> "_Part":
        torch.set_num_threads(num_threads)
        corpus, device = self.corpus.open(), choose_device(self.device.type)
        [info] = read_infos([self.checkpoint], corpus)
        if info.sha256 != self.sha256:
            raise CheckpointError(
                f"{self.checkpoint}: found other weights than where the command runs; let every "
                "node see the same files"
            )
        return _Part(corpus, load_model(info, device), device, self.centres)


@dataclass(frozen=True)
class _Part:
    """Encodes parts of a corpus by a model on a device."""

    corpus: Corpus
    model: Transformer
    device: torch.device
    centres: _Centres | None

    def __call__(self, part: _Batches) -> Arrays:
        """`rows` (n,) of the corpus, and `states` (n, D), or `clusters` (n,) by the centres."""
        all_rows, found = [], []
        for rows, states in _means(self.corpus, self.model, self.device, part):
            all_rows.append(rows)
            if self.centres is not None:
                directions = _directions(states, self.centres.mean)
                states = (directions @ self.centres.of_clusters.T).argmax(axis=1).astype(np.int32)
            found.append(states)
        kind = "states" if self.centres is None else "clusters"
        return {"rows": np.concatenate(all_rows), kind: np.concatenate(found)}


def _means(
    corpus: Corpus, model: Transformer, device: torch.device, part: _Batches
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Rows of the corpus, and the mean encoder states of their sources (rows, D), by batches."""
    pair_ids = corpus.pair_ids
    with corpus.batches(_BATCH_TOKENS, padded=True, num_threads=0) as batches:
        state = {**batches.state, "step": part.first}
    with (
        corpus.batches(_BATCH_TOKENS, padded=True, state=state) as batches,
        torch.inference_mode(),
    ):
        for _ in range(part.first, part.end):
            batch = next(batches)
            lengths = batch.src_cu_seqlens.diff().to(device)
            states = _encode(model, batch.src_tokens.to(device), lengths)
            means = states.sum(dim=1) / lengths[:, None]
            rows = np.searchsorted(pair_ids, batch.pair_ids.numpy())
            yield rows, means.float().cpu().numpy()


def _encode(model: Transformer, src: Tensor, lengths: Tensor) -> Tensor:
    """The states (B, S, D) of `Transformer.encode`, bit for bit, but 0 at padding.

    Batches are cut by the longer side, so that half of their source tokens may be padding: linear
    layers and norms compute the others alone, in half the time. Attention is that of the padded
    batch, whose sums are rounded as its shape has it.
    """
    is_token = torch.arange(src.shape[1], device=src.device) < lengths[:, None]

    def padded(tokens: Tensor) -> Tensor:
        whole = tokens.new_zeros(*src.shape, tokens.shape[1])
        whole[is_token] = tokens
        return whole

    x = model.embed(src, 0, model.src_embedding or model.embedding)[is_token]  # (T, D)
    for layer in model.encoder:
        assert isinstance(layer, EncoderLayer)
        attention, normed = layer.self_attention, layer.norms[0](x)
        projected = (
            padded(attention.query(normed)),
            *padded(attention.key_value(normed)).chunk(2, -1),
        )
        queries, keys, values = (
            each.view(*each.shape[:2], attention.num_heads, -1).transpose(1, 2)
            for each in projected
        )
        heads = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=is_token[:, None, None]
        )
        x = x + attention.output(heads.transpose(1, 2).flatten(2)[is_token])
        x = x + layer.feed_forward(layer.norms[1](x))
    return padded(model.encoder_norm(x))
