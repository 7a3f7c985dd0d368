import os
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

class IndexedFile:
    """One memory-mapped MMIDIDX pair `prefix.idx` + `prefix.bin` in fairseq's layout.

    Opening verifies the whole index. A missing, damaged or foreign file is a CorpusError that
    names the file and what was found and expected.
    """

    def __init__(
        self, prefix: str | os.PathLike[str], *, vocab_size: int | None = None
    ) -> None: ...
    def __len__(self) -> int:
        """Number of sequences N."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all sequences together."""

    @property
    def dtype(self) -> str:
        """Name in numpy of the stored type, such as "uint16"."""

    @property
    def prefix(self) -> str: ...
    def lengths(self) -> NDArray[np.int32]:
        """Tokens in each sequence, int32 (N,): a fresh copy."""

    def gather(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Pack the sequences `ids`, in that order, repeats allowed.

        Args:
            ids: int64 (B,), C-contiguous, each in [0, N).

        Returns:
            tokens int32 (T,) and cu_seqlens int32 (B+1,), which starts with 0 and ends with T.

        Raises:
            IndexError: an id lies outside [0, N).
            ValueError: T would reach 2**31; gather fewer ids a call.
            CorpusError: a token is negative, or not below `vocab_size` (2**31 if not given).
            TypeError: `ids` is not a C-contiguous int64 array.
        """

class IndexedWriter:
    """Writes `prefix.bin` and `prefix.idx` in fairseq's layout, complete or not at all.

    Both grow under temporary names beside them and appear on close(). As a context manager it
    closes on success and aborts on an exception. A failed append() or close() removes the
    temporaries; nothing more can be written then.
    """

    def __init__(self, prefix: str | os.PathLike[str], *, dtype: str) -> None: ...
    def append(self, tokens: NDArray[np.int32], lengths: NDArray[np.int32]) -> None:
        """Append n packed sequences.

        Args:
            tokens: int32 (T,), C-contiguous, each from 0 to what `dtype` holds.
            lengths: int32 (n,), C-contiguous, each at least 1, with sum T.

        Raises:
            ValueError: an argument breaks the above; the message names sequence and position.
            OSError: a write failed; errno and filename tell what and where.
        """

    def close(self) -> None:
        """Publish both files; again: nothing.

        Raises:
            ValueError: no sequence was appended, or an append failed before.
            OSError: as append(); files of the same name that existed before stay untouched,
                unless the renaming itself failed: then nothing of that name can be opened.
        """

    def abort(self) -> None:
        """Remove the temporaries; after close(): nothing."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

# The kernels of pycat.kernels.ops, which says what they compute. Arrays are C-contiguous and
# aligned; float32, float16, or uint16 for the bits of bfloat16. Results: sums (S, K, B),
# num_tokens, ppl_mean, ppl_var, nll_per_token (K, T) or (0, 0), the first bad target or T.
_Floats = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16]
_Results = tuple[
    NDArray[np.float64],
    NDArray[np.int64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.float32],
    int,
]

def cross_entropy(
    logits: _Floats,
    targets: NDArray[np.int64],
    cu_seqlens: NDArray[np.int32],
    *,
    ignore_index: int,
    all_stats: bool,
    per_token: bool,
    num_threads: int,
) -> _Results: ...
def linear_cross_entropy(
    hidden: _Floats,
    weight: _Floats,
    bias: _Floats | None,
    targets: NDArray[np.int64],
    cu_seqlens: NDArray[np.int32],
    *,
    ignore_index: int,
    all_stats: bool,
    per_token: bool,
    num_threads: int,
) -> _Results: ...
def packed_linear_cross_entropy(
    hidden: _Floats,
    tiles: NDArray[np.uint32],
    isa: str,
    vocab_size: int,
    targets: NDArray[np.int64],
    cu_seqlens: NDArray[np.int32],
    *,
    ignore_index: int,
    all_stats: bool,
    per_token: bool,
    num_threads: int,
) -> _Results: ...
def pack_weight(weight: _Floats, bias: _Floats | None) -> NDArray[np.uint32]:
    """Tiles (K, tiles, words) for `packed_linear_cross_entropy` on the instruction set in use."""

def cpu_isa() -> str:
    """The instruction set in use: the best supported, or the one PYCAT_CPU_ISA names.

    Raises:
        ValueError: PYCAT_CPU_ISA names one that is unknown or not supported.
    """

def supported_cpu_isas() -> list[str]:
    """Of portable, avx2, avx512 and avx512_bf16, those that run here, weakest first."""
