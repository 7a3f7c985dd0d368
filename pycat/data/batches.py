"""Batches of a corpus, read ahead by threads while the caller computes."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pycat import _core
from pycat.errors import CorpusError

# Batches that stand ready before the consumer asks: enough to cover one slow read.
PREFETCH = 4


class Batch(NamedTuple):
    """B pairs.

    Packed: `src_tokens` (S,) holds S source tokens, sentence after sentence, and `src_cu_seqlens`
    int32 (B + 1,) where each begins, then S; likewise `tgt_*`. Padded: `src_tokens` is (B, longest)
    with each sentence in a row, filled up on the right; the boundaries are the same. Tokens are
    int64 unless asked for as int32; `pair_ids` int64 (B,). Every sequence ends with EOS.
    """

    src_tokens: Tensor
    src_cu_seqlens: Tensor
    tgt_tokens: Tensor
    tgt_cu_seqlens: Tensor
    pair_ids: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; the copy is done on return."""
        return Batch(*(tensor.to(device) for tensor in self))


def length_mask(tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Which tokens of a padded batch (B, longest) are real ones: bool (B, longest)."""
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    mask: Tensor = columns < cu_seqlens.diff()[:, None]
    return mask


def from_capsules(capsules: tuple[Any, ...]) -> Batch:
    """The batch that the extension describes; copies nothing."""
    return Batch(*map(from_dlpack, capsules))


class BatchStream(Iterator[Batch]):
    """Batches of one epoch for one rank.

    Close it, or leave its `with` block, to stop reading ahead. Batches stay valid as long as they
    are referenced; their memory is used again once they are not.
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
        dtype: torch.dtype,
        num_threads: int,
        pin_memory: bool,
    ) -> None:
        self._facts = {"plan": f"{plan.fingerprint:016x}", "seed": seed, "epoch": epoch}
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
            dtype=str(dtype).removeprefix("torch."),
            prefetch=PREFETCH,
            num_threads=num_threads,
            buffers=_pinned_buffers(plan, num_threads) if pin_memory else [],
        )

    def _step_of(self, state: dict[str, Any] | None) -> int:
        if state is None:
            return 0
        known = {name: state.get(name) for name in self._facts}
        step = state.get("step")
        if known != self._facts or not isinstance(step, int) or step < 0:
            raise CorpusError(
                f"the state {state} belongs to other batches; expected one with {self._facts}: "
                "resume with the corpus, batch_tokens, padded, world_size, seed and epoch it was "
                "taken with"
            )
        return step

    def __len__(self) -> int:
        """Batches of the whole epoch, whatever has been read of it."""
        return self._num_batches

    def __next__(self) -> Batch:
        capsules = self._stream.next()
        if capsules is None:
            raise StopIteration
        return from_capsules(capsules)

    @property
    def state(self) -> dict[str, Any]:
        """What `Corpus.batches(state=...)` needs to go on after the last batch returned.

        A few numbers, the same on every rank as long as all have equally many batches (which only
        fewer pairs than ranks prevent); batches read ahead do not count.
        """
        return {**self._facts, "step": self._stream.step}

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
    """Memory that a CUDA device copies from at full speed, for all batches in flight."""
    return [
        torch.empty(plan.max_bytes, dtype=torch.uint8, pin_memory=True).numpy()
        for _ in range(PREFETCH + num_threads + 2)
    ]
