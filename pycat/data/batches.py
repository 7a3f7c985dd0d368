"""Batches of a corpus that threads read ahead while the caller computes."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pycat import _core
from pycat.errors import CorpusError

# Batches kept ready for the consumer: enough to cover one slow read.
PREFETCH = 4


class Batch(NamedTuple):
    """B pairs of sentences, packed or padded.

    Packed: `src_tokens` (S,) holds the S source tokens, sentence after sentence;
    `src_cu_seqlens` int32 (B + 1,) holds where each sentence begins, then S. Padded: `src_tokens`
    (B, longest) holds a sentence a row, padded on the right; `src_cu_seqlens` is the same.
    `tgt_tokens` and `tgt_cu_seqlens` likewise. Tokens are int64 unless asked for as int32;
    `pair_ids` int64 (B,). Every sequence ends with EOS.
    """

    src_tokens: Tensor
    src_cu_seqlens: Tensor
    tgt_tokens: Tensor
    tgt_cu_seqlens: Tensor
    pair_ids: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to `device`; the copy is complete on return."""
        return Batch(*(tensor.to(device) for tensor in self))


def length_mask(tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Mask of a padded batch's tokens (B, longest): True where a token is no padding."""
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    mask: Tensor = columns < cu_seqlens.diff()[:, None]
    return mask


def from_capsules(capsules: tuple[Any, ...]) -> Batch:
    """Wrap the arrays of the extension as a batch, without copies."""
    return Batch(*map(from_dlpack, capsules))


class BatchStream(Iterator[Batch]):
    """Batches of one epoch for one rank.

    Close it, or leave its `with` block, to stop reading ahead. A batch stays valid as long as it is
    referenced; then its memory is reused.
    """

    def __init__(
        self,
        src: _core.IndexedFile,
        tgt: _core.IndexedFile,
        plan: _core.BatchPlan,
        *,
        seed: int | None,
        epoch: int,
        rank: int,
        state: dict[str, Any] | None,
        pad_id: int,
        dtype: torch.dtype | None,
        num_threads: int,
        pin_memory: bool,
    ) -> None:
        self._identity = {"plan": f"{plan.fingerprint:016x}", "seed": seed, "epoch": epoch}
        self._num_batches = plan.num_batches(rank)
        self._stream = _core.BatchStream(
            src,
            tgt,
            plan,
            seed=None if seed is None else seed % 2**64,
            epoch=epoch,
            rank=rank,
            first_step=self._step_of(state),
            pad_id=pad_id,
            dtype=str(dtype or torch.int64).removeprefix("torch."),
            prefetch=PREFETCH,
            num_threads=num_threads,
            buffers=_pinned_buffers(plan, num_threads) if pin_memory else [],
        )

    def _step_of(self, state: dict[str, Any] | None) -> int:
        if state is None:
            return 0
        known = {name: state.get(name) for name in self._identity}
        step = state.get("step")
        if known != self._identity or not isinstance(step, int) or step < 0:
            raise CorpusError(
                f"the state {state} belongs to other batches; expected one with {self._identity}: "
                "resume with the corpus, batch_tokens, padded, world_size, seed and epoch it was "
                "taken with"
            )
        return step

    def __len__(self) -> int:
        """Number of batches in the whole epoch, those already read included."""
        return self._num_batches

    def __next__(self) -> Batch:
        capsules = self._stream.next()
        if capsules is None:
            raise StopIteration
        return from_capsules(capsules)

    @property
    def state(self) -> dict[str, Any]:
        """What `Corpus.batches(state=...)` needs to resume after the last batch returned.

        A few numbers; batches read ahead do not count. The state is the same on every rank while
        all ranks have equally many batches, as they do unless there are fewer pairs than ranks.
        """
        return {**self._identity, "step": self._stream.step}

    def close(self) -> None:
        """Stop the threads."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _pinned_buffers(plan: _core.BatchPlan, num_threads: int) -> list[Any]:
    """Pinned memory, from which a CUDA device copies at full speed, for all batches in flight."""
    return [
        torch.empty(plan.max_bytes, dtype=torch.uint8, pin_memory=True).numpy()
        for _ in range(PREFETCH + num_threads + 2)
    ]
