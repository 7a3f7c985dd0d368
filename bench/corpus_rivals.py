"""Other ways to read the same corpus, each in the best form its interface allows.

A reader takes one side: `packed(ids)` gives tokens int64 (T,) and cu_seqlens int32 (B + 1,),
`padded(ids)` gives tokens int64 (B, longest) and the same boundaries, all as torch tensors.
"""

import os
import time
import warnings
from abc import ABC, abstractmethod
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]


class Reader(Protocol):
    """One side of a corpus."""

    def packed(self, ids: Ids) -> tuple[Tensor, Tensor]:
        """The sequences one after another."""

    def padded(self, ids: Ids) -> tuple[Tensor, Tensor]:
        """Each sequence in a row."""


def boundaries(lengths: NDArray[Any]) -> NDArray[np.int32]:
    cu_seqlens = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    return cu_seqlens


class NumpyReader:
    """Index arithmetic over a memory map, without a loop.

    None of these was faster: `take` with mode="clip" for packed tokens; for padded ones filling a
    mask with packed tokens, `np.where`, `np.putmask`, and indexing without mode="clip".
    """

    def __init__(self, prefix: str, pad_id: int) -> None:
        index = np.memmap(f"{prefix}.idx", np.uint8, "r")
        num_sequences = int(index[18:26].view(np.uint64)[0])
        # Aligned copies: `take` would make one of the whole at each call. Of 100 million pairs one
        # of the pointers is too large, and indexing reads them where they are.
        self.lengths = index[26 : 26 + 4 * num_sequences].view(np.int32).copy()
        self.pointers = index[26 + 4 * num_sequences :].view(np.int64)
        self.tokens = np.asarray(np.memmap(f"{prefix}.bin", np.uint16, "r"))
        self.begins = self.pointers // 2 if num_sequences <= 20_000_000 else None
        self.columns = np.arange(1 << 17)
        self.pad_id = pad_id

    def _begins(self, ids: Ids) -> Ids:
        begins: Ids = self.pointers[ids] // 2 if self.begins is None else self.begins.take(ids)
        return begins

    def packed(self, ids: Ids) -> tuple[Tensor, Tensor]:
        lengths = self.lengths.take(ids)
        cu_seqlens = boundaries(lengths)
        where = np.repeat(self._begins(ids) - cu_seqlens[:-1], lengths)
        where += self.columns[: cu_seqlens[-1]]
        tokens = self.tokens.take(where).astype(np.int64)
        return torch.from_numpy(tokens), torch.from_numpy(cu_seqlens)

    def padded(self, ids: Ids) -> tuple[Tensor, Tensor]:
        lengths = self.lengths.take(ids)
        columns = self.columns[: lengths.max()]
        where = self._begins(ids)[:, None] + columns
        tokens = self.tokens.take(where, mode="clip").astype(np.int64)
        tokens[columns >= lengths[:, None]] = self.pad_id
        return torch.from_numpy(tokens), torch.from_numpy(boundaries(lengths))


class ListReader(ABC):
    """Batches of what a reader gives as a list of arrays."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    @abstractmethod
    def sequences(self, ids: Ids) -> list[NDArray[Any]]:
        """Tokens of each sequence, in the order of `ids`."""

    def packed(self, ids: Ids) -> tuple[Tensor, Tensor]:
        rows = self.sequences(ids)
        tokens = np.concatenate(rows, dtype=np.int64)
        return torch.from_numpy(tokens), torch.from_numpy(boundaries(np.array([*map(len, rows)])))

    def padded(self, ids: Ids) -> tuple[Tensor, Tensor]:
        rows = self.sequences(ids)
        lengths = np.array([*map(len, rows)])
        tokens = np.full((len(rows), lengths.max()), self.pad_id)
        for to, row in zip(tokens, rows, strict=True):
            to[: len(row)] = row
        return torch.from_numpy(tokens), torch.from_numpy(boundaries(lengths))


class MegatronReader(ListReader):
    """megatron-core's IndexedDataset, one `get` a sequence."""

    def __init__(self, prefix: str, pad_id: int) -> None:
        super().__init__(pad_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other packages
            from megatron.core.datasets.indexed_dataset import IndexedDataset
        write_megatron_index(prefix)
        self.dataset = IndexedDataset(f"{prefix}.mcore")

    def sequences(self, ids: Ids) -> list[NDArray[Any]]:
        return [self.dataset[i] for i in ids.tolist()]


def write_megatron_index(prefix: str) -> None:
    """The index again in Megatron's layout, all sequences one document, beside a link."""
    index = Path(f"{prefix}.idx").read_bytes()
    num_sequences = int.from_bytes(index[18:26], "little")
    documents = np.array([0, num_sequences], np.int64)
    count = np.uint64(len(documents)).tobytes()
    Path(f"{prefix}.mcore.idx").write_bytes(index[:26] + count + index[26:] + documents.tobytes())
    link = Path(f"{prefix}.mcore.bin")
    link.unlink(missing_ok=True)
    link.symlink_to(f"{Path(prefix).name}.bin")


class ArrowReader:
    """`take` on a list array over the mapped tokens."""

    def __init__(self, prefix: str, pad_id: int) -> None:
        import pyarrow as pa

        rival = NumpyReader(prefix, pad_id)
        offsets = np.append(rival.pointers // 2, len(rival.tokens))
        self.lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(rival.tokens))
        self.pad_id = pad_id

    def packed(self, ids: Ids) -> tuple[Tensor, Tensor]:
        taken = self.lists.take(ids)
        tokens = taken.values.to_numpy(zero_copy_only=True).astype(np.int64)
        return torch.from_numpy(tokens), torch.from_numpy(
            taken.offsets.to_numpy(zero_copy_only=True).astype(np.int32)
        )

    def padded(self, ids: Ids) -> tuple[Tensor, Tensor]:
        packed, cu_seqlens = self.packed(ids)
        lengths = cu_seqlens.diff().numpy()
        mask = np.arange(lengths.max()) < lengths[:, None]
        tokens = np.full(mask.shape, self.pad_id)
        tokens[mask] = packed.numpy()
        return torch.from_numpy(tokens), cu_seqlens


class DatasetsReader(ListReader):
    """Hugging Face `datasets` over the same Arrow list array, as numpy arrays."""

    def __init__(self, prefix: str, pad_id: int) -> None:
        super().__init__(pad_id)
        import pyarrow as pa
        from datasets import Dataset

        lists = ArrowReader(prefix, pad_id).lists
        self.dataset = Dataset(pa.table({"tokens": lists})).with_format("numpy")

    def sequences(self, ids: Ids) -> list[NDArray[Any]]:
        return list(self.dataset[ids]["tokens"])


READERS: dict[str, tuple[str, type[Reader]]] = {
    "numpy": ("numpy", NumpyReader),
    "megatron-core": ("megatron-core", MegatronReader),
    "pyarrow": ("pyarrow", ArrowReader),
    "datasets": ("datasets", DatasetsReader),
}


def open_rivals(
    prefixes: tuple[str, str], pad_id: int, names: list[str]
) -> dict[str, tuple[Reader, Reader]]:
    """Readers of both sides, of the packages that are installed."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    readers: dict[str, tuple[Reader, Reader]] = {}
    for name in names:
        package, reader = READERS[name]
        if installed_version(package) is None:
            print(f"{name}: skipped, {package} is not installed")
            continue
        src, tgt = (reader(prefix, pad_id) for prefix in prefixes)  # type: ignore[call-arg]
        readers[name] = (src, tgt)
    return readers


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def memcpy_bytes_per_s() -> float:
    """Bytes copied a second, the better of two usual ways, between large buffers touched before."""
    source, target = np.ones((2, 1 << 25), np.int64)
    from_torch, to_torch = torch.from_numpy(source), torch.from_numpy(target)
    torch.set_num_threads(1)
    elapsed_s = []
    for _ in range(5):
        for copy in (lambda: np.copyto(target, source), lambda: to_torch.copy_(from_torch)):
            start = time.perf_counter()
            copy()
            elapsed_s.append(time.perf_counter() - start)
    return source.nbytes / min(elapsed_s)


def fairseq_plan(
    src_lengths: NDArray[np.int32], tgt_lengths: NDArray[np.int32], batch_tokens: int, seed: int
) -> list[Ids]:
    """What fairseq does for an epoch: shuffle, sort by target, then by source length, and cut.

    The cut is fairseq's own compiled `batch_by_size_vec` where it is installed. Else it is found
    batch by batch: each takes as many pairs as its longest side times its pairs allow.
    """
    order = np.random.default_rng(seed).permutation(len(src_lengths))
    order = order[np.argsort(tgt_lengths[order], kind="mergesort")]
    order = order[np.argsort(src_lengths[order], kind="mergesort")]
    sizes = np.maximum(src_lengths, tgt_lengths)[order].astype(np.int64)
    compiled = fairseq_cut()
    if compiled is not None:
        batches: list[Ids] = compiled(order, sizes, batch_tokens, -1, 1)
        return batches
    cuts = []
    begin, window = 0, min(1024, batch_tokens)
    counts = np.arange(1, batch_tokens + 1)
    while begin < len(sizes):
        longest = np.maximum.accumulate(sizes[begin : begin + window])
        fit = int(np.searchsorted(longest * counts[: len(longest)], batch_tokens, side="right"))
        if fit == window < batch_tokens:
            window = min(2 * window, batch_tokens)
            continue
        window = min(max(2 * fit, 16), batch_tokens)
        begin += max(fit, 1)
        cuts.append(begin)
    return np.split(order, cuts[:-1])


def fairseq_cut() -> Any:
    try:
        from fairseq.data.data_utils_fast import batch_by_size_vec
    except ImportError:
        return None
    return batch_by_size_vec
