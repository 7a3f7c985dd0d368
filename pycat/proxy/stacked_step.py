"""One update of M stacked models: forward pass, loss, gradients clipped for each, optimizer.

On CUDA in 16 bits every batch is laid into arrays of fixed shapes, and the whole update is one CUDA
graph: a small model's hundreds of kernels then cost no time between them. What a batch leaves free
is filled with sequences of weight 0. Elsewhere shapes are those of the batch.

Several ranks compute the gradients of a share of each batch, and add them up before they are
clipped, so that all of them have the same parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pycat.data.batches import Batch
from pycat.kernels.training_loss import linear_smoothed_cross_entropy
from pycat.proxy.cpu_attention import cpu_attention, has_cpu_attention
from pycat.proxy.muon import Muon, hidden_matrices
from pycat.proxy.packed_attention import Side, attention, has_varlen, varlen_attention
from pycat.proxy.packing import packed_positions
from pycat.proxy.stacked_transformer import Attend, Attentions, PackedSide, StackedTransformer
from pycat.runtime.device import autocast
from pycat.runtime.ranks import ALONE, Ranks

_MAX_GRADIENT_NORM = 1.0
_WARM_UP_UPDATES = 3
# Rows of tokens are filled up to a multiple of so many. oneDNN, which multiplies bfloat16 on the
# CPU, makes code for each shape anew and keeps it: 15 MB an update where every batch differs.
_ROW_TOKENS = 64
# Tokens of a row of fixed shape that every batch leaves to fillers.
_FILLED_TOKENS = 64


class Capacity(NamedTuple):
    """Bounds on every batch of a model: tokens of each side, pairs, the longest sequence."""

    src_tokens: int
    tgt_tokens: int
    pairs: int
    longest: int


class StackedStep:
    """Updates M models, each by a batch of its own.

    Args:
        stack: the models, on `device`; their parameters are changed in place.
        eos_id: what the decoder starts from.
        label_smoothing: in [0, 1).
        dtype: of matrix products: float32 or bfloat16.
        capacity: of all batches to come; of several ranks, of their usual shares.
        ranks: those that share the batches out.
        optimizer: "adam", or "muon": Muon for the matrices of layers, Adam for the rest.

    Attributes:
        loss_sums: float64 (M,), sums of the mean losses of all updates.
        token_losses: float32 (M, T), losses of the target tokens of the last update, not weighted.
    """

    def __init__(
        self,
        stack: StackedTransformer,
        *,
        eos_id: int,
        label_smoothing: float,
        dtype: torch.dtype,
        capacity: Capacity,
        ranks: Ranks = ALONE,
        optimizer: str = "adam",
    ) -> None:
        self._ranks = ranks
        self._stack, self._eos_id, self._smoothing = stack, eos_id, label_smoothing
        self._dtype, self._capacity = dtype, capacity
        self._device = stack.output_weight.device
        self._rate = torch.zeros((), device=self._device)
        matrices = hidden_matrices(stack.parameters) if optimizer == "muon" else {}
        adam = torch.optim.Adam(
            [value for name, value in stack.parameters.items() if name not in matrices],
            lr=self._rate,
            betas=(0.9, 0.98),
            eps=1e-9,
            fused=True,
            capturable=self._device.type == "cuda",
        )
        self._optimizers: list[torch.optim.Adam | Muon] = [adam]
        if matrices:
            self._optimizers.append(Muon(matrices, self._rate, dtype))
        # What the last of them keeps of matrices, and Adam of the rest from its first step on.
        self._states: dict[str, dict[str, Tensor]] = {
            name: (self._optimizers[-1] if name in matrices else adam).state[value]
            for name, value in stack.parameters.items()
        }
        self.loss_sums = torch.zeros(stack.num_models, dtype=torch.float64, device=self._device)
        self.token_losses = torch.zeros(stack.num_models, 0, device=self._device)
        self._losses = torch.zeros(stack.num_models, device=self._device)
        self._head_width = stack.config.d_model // stack.config.num_heads
        self._varlen = has_varlen(self._device, dtype, self._head_width)
        self._replay: Callable[[], None] | None = None
        if self._varlen:
            self._static = _StaticBatch(stack.num_models, capacity, eos_id, self._device)
            self._replay = self._capture()

    def update(
        self,
        batches: Sequence[Batch],
        learning_rate: float,
        token_weights: Sequence[NDArray[np.float32]] | None = None,
        num_counted: Sequence[int] | None = None,
    ) -> None:
        """One update of each model by its batch (on the host), or by this rank's share of it.

        The loss is the sum over the target tokens of loss times weight, divided by the number of
        tokens whose weight is not 0; `token_weights` has (T,) for each model, None is 1 for all.
        `num_counted` is that number in the whole batch of each model, where this is a share.
        """
        self._rate.fill_(learning_rate)
        weights = [
            _mean_weights(
                len(batch.tgt_tokens),
                None if token_weights is None else token_weights[m],
                None if num_counted is None else num_counted[m],
            )
            for m, batch in enumerate(batches)
        ]
        if self._replay is not None and self._static.holds(batches):
            self._static.fill(batches, weights)
            self._replay()
            return
        self._compute(*_sides(batches, weights, self._device, self._dtype, self._head_width))

    def _compute(
        self, src: PackedSide, tgt: PackedSide, weights: Tensor, attentions: Attentions
    ) -> None:
        """One update; `weights` (M, T) are what each token counts."""
        self._compute_gradients(src, tgt, weights, attentions)
        self._add_up(self._gradients(), self._losses)
        self._step()

    def _compute_gradients(
        self, src: PackedSide, tgt: PackedSide, weights: Tensor, attentions: Attentions
    ) -> None:
        """Forward and backward pass: leaves the losses (M,), and gradients at the parameters."""
        for parameter in self._stack.parameters.values():
            parameter.grad = None
        with autocast(self._device, self._dtype):
            hidden = self._stack.hidden(src, tgt, self._eos_id, attentions)
        losses, self.token_losses = linear_smoothed_cross_entropy(
            hidden,
            self._stack.output_weight,
            tgt.tokens,
            weights,
            smoothing=self._smoothing,
            dtype=self._dtype,
        )
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self._losses = losses.detach()

    def _gradients(self) -> list[Tensor]:
        parameters = self._stack.parameters.values()
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    def _add_up(self, gradients: Sequence[Tensor], losses: Tensor) -> None:
        """Add up, in place, what each rank computed of its share."""
        if self._ranks.num_ranks == 1:
            return
        parts = [*gradients, losses]
        flat = torch.cat([part.flatten() for part in parts])
        self._ranks.add_up(flat)
        sums = torch.split(flat, [part.numel() for part in parts])
        for part, total in zip(parts, sums, strict=True):
            part.copy_(total.view_as(part))

    def _step(self) -> None:
        """Clip the gradients, update the parameters, and note the losses."""
        self._clip_gradients()
        for optimizer in self._optimizers:
            optimizer.step()
        self.loss_sums += self._losses

    def _clip_gradients(self) -> None:
        """Scale each model's gradient down to the largest norm allowed."""
        grads = [parameter.grad for parameter in self._stack.parameters.values()]
        norms = [
            torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads if grad is not None
        ]
        norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)  # (M,)
        scale = (_MAX_GRADIENT_NORM / (norm + 1e-6)).clamp(max=1.0)
        for grad in grads:
            if grad is not None:
                grad.mul_(scale.view(-1, *[1] * (grad.dim() - 1)))

    def _capture(self) -> Callable[[], None]:
        """The update as one CUDA graph; parameters and optimizer are left as they were.

        With several ranks, the gradients are added up between two graphs.
        """
        before = {name: value.detach().clone() for name, value in self._stack.parameters.items()}
        static = self._static
        arguments = static.src, static.tgt, static.weights, static.attentions()
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_UPDATES):
                self._compute(*arguments)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graphs = [torch.cuda.CUDAGraph()]
        with torch.cuda.graph(graphs[0]):
            self._compute_gradients(*arguments)
            if self._ranks.num_ranks == 1:
                self._step()
        gradients, losses = self._gradients(), self._losses
        if self._ranks.num_ranks > 1:
            graphs.append(torch.cuda.CUDAGraph())
            with torch.cuda.graph(graphs[1], pool=graphs[0].pool()):
                self._step()
        with torch.no_grad():
            for name, value in self._stack.parameters.items():
                value.copy_(before[name])
            for state in self._states.values():
                for tensor in state.values():
                    tensor.zero_()
            self.loss_sums.zero_()

        def replay() -> None:
            graphs[0].replay()
            self._add_up(gradients, losses)
            for graph in graphs[1:]:
                graph.replay()

        return replay

    def optimizer_state(self) -> dict[str, dict[str, Tensor]]:
        """Copies of the optimizer's state by the parameter's name.

        Adam has `exp_avg`, `exp_avg_sq` and `step`, Muon has `momentum_buffer`.
        """
        return {
            name: {key: value.detach().clone() for key, value in own.items()}
            for name, own in self._states.items()
        }

    def load_optimizer_state(self, states: dict[str, dict[str, Tensor]]) -> None:
        """Put that state back, in place where there is one: a graph reads it where it stands."""
        for name, own in self._states.items():
            for key, value in states[name].items():
                if key in own:
                    own[key].copy_(value)
                else:
                    # Adam counts its updates on the host, but where a graph counts them.
                    is_count = key == "step" and self._replay is None
                    own[key] = value.clone() if is_count else value.to(self._device)


def _mean_weights(
    num_tokens: int, weights: NDArray[np.float32] | None, num_counted: int | None = None
) -> NDArray[np.float32]:
    """Weights (T,) that make a sum a mean over the tokens that count, by default those of T."""
    if weights is None:
        weights = np.ones(num_tokens, dtype=np.float32)
    if num_counted is None:
        num_counted = int(np.count_nonzero(weights))
    return (weights / max(1, num_counted)).astype(np.float32)


def _sides(
    batches: Sequence[Batch],
    token_weights: Sequence[NDArray[np.float32]],
    device: torch.device,
    dtype: torch.dtype,
    head_width: int,
) -> tuple[PackedSide, PackedSide, Tensor, Attentions]:
    """What `_compute` takes, in the shapes of these batches."""
    packed: list[PackedSide] = []
    sides: list[Side] = []
    for tokens, cu_seqlens in (
        ([b.src_tokens for b in batches], [b.src_cu_seqlens for b in batches]),
        ([b.tgt_tokens for b in batches], [b.tgt_cu_seqlens for b in batches]),
    ):
        # Rows end in a sequence that nothing counts, of one token or more.
        longest = _ROW_TOKENS * (max(len(row) for row in tokens) // _ROW_TOKENS + 1)
        rows = torch.zeros(len(batches), longest, dtype=torch.int64)
        positions = torch.zeros(len(batches), longest, dtype=torch.int64)
        lengths = []
        for m, (row, ends) in enumerate(zip(tokens, cu_seqlens, strict=True)):
            rows[m, : len(row)] = row
            positions[m, : len(row)] = torch.from_numpy(packed_positions(ends.numpy()))
            lengths.append(ends.diff().numpy().astype(np.int64))
            lengths.append(np.array([longest - len(row)]))
            positions[m, len(row) :] = torch.arange(longest - len(row))
        packed.append(PackedSide(rows.to(device), positions.to(device)))
        all_lengths = np.concatenate(lengths)
        cu = torch.from_numpy(np.concatenate(([0], all_lengths.cumsum())).astype(np.int32))
        sides.append(Side(rows.flatten().to(device), cu.to(device), all_lengths))
    src, tgt = packed
    weights = torch.zeros(src.tokens.shape[0], tgt.tokens.shape[1])
    for m, own in enumerate(token_weights):
        weights[m, : len(own)] = torch.from_numpy(own)
    attentions = Attentions(
        _attend(sides[0], sides[0], dtype, head_width),
        _attend(sides[1], sides[1], dtype, head_width, is_causal=True),
        _attend(sides[1], sides[0], dtype, head_width),
    )
    return src, tgt, weights.to(device), attentions


def _attend(
    queries: Side, keys: Side, dtype: torch.dtype, head_width: int, *, is_causal: bool = False
) -> Attend:
    if has_cpu_attention(queries.tokens.device, dtype, head_width):
        return cpu_attention(queries, keys, is_causal=is_causal)
    return attention(queries, keys, 1, is_causal=is_causal, varlen=False)


class _StaticBatch:
    """M batches in arrays of fixed shapes on a CUDA device, filled again for each update."""

    def __init__(
        self, num_models: int, capacity: Capacity, eos_id: int, device: torch.device
    ) -> None:
        self._num_models, self._eos_id = num_models, eos_id
        self._longest = max(64, capacity.longest)
        # Room that every batch leaves, so that both sides have a token for each filler.
        widths = [tokens + _FILLED_TOKENS for tokens in (capacity.src_tokens, capacity.tgt_tokens)]
        fillers = max(-(-width // self._longest) for width in widths)
        self._num_pairs = capacity.pairs
        self._num_sequences = capacity.pairs + fillers
        shapes = [(num_models, width) for width in widths]
        num_ends = num_models * self._num_sequences + 1

        def arrays(pinned: bool) -> dict[str, Tensor]:
            options: dict[str, Any] = {"pin_memory": True} if pinned else {"device": device}
            made = {}
            for side, shape in zip(("src", "tgt"), shapes, strict=True):
                made[f"{side}_tokens"] = torch.zeros(shape, dtype=torch.int64, **options)
                made[f"{side}_positions"] = torch.zeros(shape, dtype=torch.int64, **options)
                made[f"{side}_ends"] = torch.zeros(num_ends, dtype=torch.int32, **options)
            made["weights"] = torch.zeros(shapes[1], **options)
            return made

        # Two on the host: one is filled while the other is still being copied.
        self._host = [arrays(pinned=True) for _ in range(2)]
        self._copied: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0
        self._device_arrays = arrays(pinned=False)
        self._device = device
        d = self._device_arrays
        self.src = PackedSide(d["src_tokens"], d["src_positions"])
        self.tgt = PackedSide(d["tgt_tokens"], d["tgt_positions"])
        self.weights = d["weights"]
        empty = np.zeros(0, dtype=np.int64)
        none = np.zeros(1, dtype=np.int32)
        no_weights = np.zeros(0, dtype=np.float32)
        self._write([(empty, none, empty, none)] * num_models, [no_weights] * num_models)

    def attentions(self) -> Attentions:
        """Over the arrays, whatever they hold at the time."""
        src, tgt = self._device_arrays["src_ends"], self._device_arrays["tgt_ends"]

        def attend(queries: Tensor, keys: Tensor, is_causal: bool = False) -> Attend:
            return varlen_attention(
                queries, keys, self._longest, self._longest, is_causal=is_causal
            )

        return Attentions(attend(src, src), attend(tgt, tgt, is_causal=True), attend(tgt, src))

    def holds(self, batches: Sequence[Batch]) -> bool:
        """Whether there is room for these batches; a rank's share may be larger than usual."""
        sides = zip(("src_tokens", "tgt_tokens"), (0, 2), strict=True)
        has_tokens = all(
            len(batch[at]) + _FILLED_TOKENS <= self._device_arrays[name].shape[1]
            for name, at in sides
            for batch in batches
        )
        return has_tokens and all(
            len(batch.src_cu_seqlens) - 1 <= self._num_pairs for batch in batches
        )

    def fill(self, batches: Sequence[Batch], token_weights: Sequence[NDArray[np.float32]]) -> None:
        """Lay batches and the weights of their target tokens in, and send them to the device."""
        rows = [tuple(tensor.numpy() for tensor in batch[:4]) for batch in batches]
        self._write(rows, token_weights)

    def _write(
        self, rows: Sequence[tuple[NDArray[Any], ...]], token_weights: Sequence[NDArray[np.float32]]
    ) -> None:
        copied = self._copied[self._turn]
        if copied is not None:
            copied.synchronize()
        host = self._host[self._turn]

        # What a batch leaves free becomes as many sequences on either side.
        num_fillers = [0] * len(rows)
        for side, at in (("src", 0), ("tgt", 2)):
            width = host[f"{side}_tokens"].shape[1]
            for m, row in enumerate(rows):
                left = width - len(row[at])
                num_fillers[m] = max(num_fillers[m], -(-left // self._longest))

        # Tokens, then fillers of like lengths; sequences that are left over are empty.
        for side, at in (("src", 0), ("tgt", 2)):
            tokens, positions = host[f"{side}_tokens"].numpy(), host[f"{side}_positions"].numpy()
            width = tokens.shape[1]
            lengths = np.zeros((self._num_models, self._num_sequences), dtype=np.int64)
            for m, row in enumerate(rows):
                packed, ends = row[at], row[at + 1]
                pairs = len(ends) - 1
                tokens[m, : len(packed)] = packed
                tokens[m, len(packed) :] = self._eos_id
                lengths[m, :pairs] = np.diff(ends)
                fillers = np.linspace(len(packed), width, num_fillers[m] + 1).astype(np.int64)
                lengths[m, pairs : pairs + num_fillers[m]] = np.diff(fillers)
                starts = np.cumsum(lengths[m]) - lengths[m]
                positions[m] = np.arange(width) - np.repeat(starts, lengths[m])
            host[f"{side}_ends"].numpy()[1:] = np.cumsum(lengths)

        # Fillers count nothing.
        weights = host["weights"].numpy()
        weights[:] = 0
        for m, own in enumerate(token_weights):
            weights[m, : len(own)] = own
        for name, array in self._device_arrays.items():
            array.copy_(host[name], non_blocking=True)
        self._copied[self._turn] = torch.cuda.current_stream(self._device).record_event()
        self._turn = 1 - self._turn
