"""Attention over packed sequences of K checkpoints at once.

On CUDA in 16-bit types, `torch.nn.attention.varlen` reads the packed tokens without padding, with
the sequences of all checkpoints one after another (K B sequences). Elsewhere,
`scaled_dot_product_attention` runs over groups of sequences of similar lengths, each group padded
to its longest sequence.
"""

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# From queries (K Tq, heads, width), keys and values (K Tk, heads, width) to (K Tq, heads, width).
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

# Bounds of FlashAttention: https://docs.pytorch.org/docs/2.11/nn.attention.varlen.html
_VARLEN_DTYPES = (torch.bfloat16, torch.float16)
_VARLEN_MAX_HEAD_WIDTH = 256

# Sequences of one launch: they are a dimension of CUDA's grid.
_MAX_SEQUENCES = 65_535


class Side(NamedTuple):
    """B packed sequences.

    Attributes:
        tokens: int64 (T,), on the device.
        cu_seqlens: int32 (B + 1,), on the device.
        lengths: int64 (B,), on the host, where reading them does not wait for the device.
    """

    tokens: Tensor
    cu_seqlens: Tensor
    lengths: NDArray[np.int64]


def attention(
    queries: Side, keys: Side, num_checkpoints: int, *, is_causal: bool, varlen: bool
) -> Attend:
    """Prepare attention of sequence b of `queries` to sequence b of `keys`, for all layers.

    Does not wait for the device.

    Args:
        queries, keys: B sequences each.
        num_checkpoints: K.
        is_causal: position t attends to positions up to t; lengths are equal then.
        varlen: use `varlen_attn`, which `has_varlen` must allow.
    """
    if not varlen:
        return partial(_padded, num_checkpoints, _plan(queries, keys, num_checkpoints, is_causal))
    calls = list(zip(*(_calls(side, num_checkpoints) for side in (queries, keys)), strict=True))
    longest = int(queries.lengths.max()), int(keys.lengths.max())
    # A window of 0 positions to the right is causal; -1 is unbounded.
    return partial(_packed, calls, longest, (-1, 0) if is_causal else (-1, -1))


def has_varlen(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether `varlen_attn` is usable: torch 2.11 or newer, on CUDA, in a 16-bit type."""
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and dtype in _VARLEN_DTYPES
        and head_width % 8 == 0
        and head_width <= _VARLEN_MAX_HEAD_WIDTH
        and _varlen_attn() is not None
    )


@cache
def _varlen_attn() -> Any:
    # Imported late: it imports torch._dynamo, which takes seconds.
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    # In torch 2.10 the argument for causality is another one.
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None


def varlen_attention(
    query_ends: Tensor,
    key_ends: Tensor,
    longest_query: int,
    longest_key: int,
    *,
    is_causal: bool = False,
) -> Attend:
    """Attention by `varlen_attn` over sequences that only the device knows.

    Args:
        query_ends, key_ends: int32 (B + 1,), `cu_seqlens` of both sides.
        longest_query, longest_key: bounds on their lengths.
        is_causal: position t sees those up to t.
    """
    window_size = (-1, 0) if is_causal else (-1, -1)

    def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        out: Tensor = _varlen_attn()(
            queries,
            keys,
            values,
            query_ends,
            key_ends,
            longest_query,
            longest_key,
            window_size=window_size,
        )
        return out

    return attend


class _Call(NamedTuple):
    """Sequences of one call: tokens `first` to `last`; `cu_seqlens` counts from `first`."""

    first: int
    last: int
    cu_seqlens: Tensor


def _calls(side: Side, num_checkpoints: int) -> list[_Call]:
    """Split the sequences of all checkpoints, one after another, into calls."""
    num_tokens, starts = len(side.tokens), side.cu_seqlens[:-1]
    firsts = num_tokens * torch.arange(num_checkpoints, dtype=starts.dtype, device=starts.device)
    cu_seqlens = F.pad(
        (firsts[:, None] + starts).flatten(), (0, 1), value=num_checkpoints * num_tokens
    )
    on_host = np.tile(side.lengths, num_checkpoints).cumsum()
    calls, first = [], 0
    for at in range(0, len(on_host), _MAX_SEQUENCES):
        ends = on_host[at : at + _MAX_SEQUENCES]
        calls.append(_Call(first, int(ends[-1]), cu_seqlens[at : at + len(ends) + 1] - first))
        first = int(ends[-1])
    return calls


def _packed(
    calls: list[tuple[_Call, _Call]],
    longest: tuple[int, int],
    window_size: tuple[int, int],
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """`Attend` by `varlen_attn`."""
    outs = [
        _varlen_attn()(
            queries[q.first : q.last],
            keys[k.first : k.last],
            values[k.first : k.last],
            q.cu_seqlens,
            k.cu_seqlens,
            *longest,
            window_size=window_size,
        )
        for q, k in calls
    ]
    return outs[0] if len(outs) == 1 else torch.cat(outs)


class _Bucket(NamedTuple):
    """b sequences of similar lengths, padded to a rectangle.

    Attributes:
        num_rows: b.
        mask: (b, 1, 1, Lk), True at keys that are no padding; None where there is no padding, or
            causality hides it.
    """

    num_rows: int
    mask: Tensor | None


class _Plan(NamedTuple):
    """All buckets, one after another, so that one gather serves them all.

    A gather for each bucket would make a gradient of the whole batch for each.

    Attributes:
        buckets: the buckets.
        query_tokens: (Cq,), the packed token of each cell of all buckets, row by row; in padding
            cells the row's first token.
        key_tokens: (Ck,), likewise.
        query_cells, key_cells: cells of each bucket, which sum to Cq and Ck.
        cell_of_token: (T,), the cell of `query_tokens` where each packed token stands.
        is_causal: as for `attention`.
    """

    buckets: list[_Bucket]
    query_tokens: Tensor
    key_tokens: Tensor
    query_cells: list[int]
    key_cells: list[int]
    cell_of_token: Tensor
    is_causal: bool


def _plan(queries: Side, keys: Side, num_checkpoints: int, is_causal: bool) -> _Plan:
    """Group sequences whose lengths round up to the same powers of two: under half is padding."""
    device = queries.tokens.device

    def send(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    powers = [np.ceil(np.log2(side.lengths)).astype(np.int64) for side in (queries, keys)]
    kinds = 64 * powers[0] + powers[1]
    max_rows = max(1, _MAX_SEQUENCES // num_checkpoints)
    buckets: list[_Bucket] = []
    query_grids, key_grids, are_queries = [], [], []
    for kind in np.unique(kinds):
        members = np.flatnonzero(kinds == kind)
        for at in range(0, len(members), max_rows):
            rows = members[at : at + max_rows]
            (query_grid, is_query), (key_grid, is_key) = (
                _grid(side, rows) for side in (queries, keys)
            )
            mask = None if is_causal or is_key.all() else send(is_key[:, None, None])
            buckets.append(_Bucket(len(rows), mask))
            query_grids.append(query_grid.ravel())
            key_grids.append(key_grid.ravel())
            are_queries.append(is_query.ravel())
    query_tokens, is_query = np.concatenate(query_grids), np.concatenate(are_queries)
    cells = np.flatnonzero(is_query)
    cell_of_token = np.empty(len(cells), dtype=np.int64)
    cell_of_token[query_tokens[cells]] = cells
    return _Plan(
        buckets,
        send(query_tokens),
        send(np.concatenate(key_grids)),
        [len(grid) for grid in query_grids],
        [len(grid) for grid in key_grids],
        send(cell_of_token),
        is_causal,
    )


def _grid(side: Side, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Packed tokens (b, longest) of rows (b,), and which cells are no padding."""
    lengths = side.lengths[rows, None]
    starts = (side.lengths.cumsum() - side.lengths)[rows, None]
    columns = np.arange(lengths.max())
    is_token = columns < lengths
    return np.where(is_token, starts + columns, starts), is_token


def _padded(
    num_checkpoints: int, plan: _Plan, queries: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """`Attend` by `scaled_dot_product_attention` over padded buckets."""
    q, k, v = (
        torch.split(x.view(num_checkpoints, -1, *x.shape[1:]).index_select(1, tokens), sizes, dim=1)
        for x, tokens, sizes in (
            (queries, plan.query_tokens, plan.query_cells),
            (keys, plan.key_tokens, plan.key_cells),
            (values, plan.key_tokens, plan.key_cells),
        )
    )
    outs = []
    for i, bucket in enumerate(plan.buckets):
        # Four dimensions (K b, heads, L, width): for five CUDA has no fused attention.
        rows = num_checkpoints * bucket.num_rows
        in_bucket = [x[i].reshape(rows, -1, *queries.shape[1:]).transpose(1, 2) for x in (q, k, v)]
        heads = F.scaled_dot_product_attention(
            in_bucket[0],
            in_bucket[1],
            in_bucket[2],
            attn_mask=None if bucket.mask is None else bucket.mask.repeat(num_checkpoints, 1, 1, 1),
            is_causal=plan.is_causal,
        )
        outs.append(heads.transpose(1, 2).reshape(num_checkpoints, -1, *queries.shape[1:]))
    cells = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
    return cells.index_select(1, plan.cell_of_token).flatten(0, 1)
