"""Pairs of a corpus as numpy arrays, for what needs no torch."""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

_CPU = (1, 0)  # kDLCPU, and its only device


class PackedPairs(NamedTuple):
    """B pairs, packed; the arrays are read-only, and the fields those of a packed `Batch`."""

    src_tokens: NDArray[np.int64]  # (S,)
    src_cu_seqlens: NDArray[np.int32]  # (B + 1,)
    tgt_tokens: NDArray[np.int64]  # (T,)
    tgt_cu_seqlens: NDArray[np.int32]  # (B + 1,)
    pair_ids: NDArray[np.int64]  # (B,)

    @classmethod
    def of(cls, capsules: tuple[Any, ...]) -> Self:
        """Wrap the arrays of the extension, without copies."""
        arrays: list[Any] = [np.from_dlpack(_Exported(capsule)) for capsule in capsules]
        return cls(*arrays)


class _Exported:
    """An array of the extension, for `numpy.from_dlpack`."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU
