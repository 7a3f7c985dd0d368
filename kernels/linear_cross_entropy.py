"""Linear layer and cross-entropy in one on the GPU: logits never reach memory.

    z[k, t, :] = weight[k] @ hidden[k, t] + bias[k]
    nll[k, t]  = lse_j(z[k, t, j]) - z[k, t, y_t]

K checkpoints, T tokens, V ids, H wide. A persistent grid walks over (checkpoint, tile of tokens,
split of the vocabulary); a split is a few tiles of ids. All steps of all tiles form one loop, so
that loads for the next tile run ahead during the epilogue of this one. The epilogue reduces the
accumulators to a handful of numbers per token, in base 2 and against a whole reference, with one
exponential per logit. The target's logit is taken out of the same accumulators, and only in the
quarters of a tile that hold a target of one of its tokens.

Operations: 2 K T V H. Bytes: tiles of hidden and weight through L2; partial sums, 8 (20 for "all")
per token, checkpoint and split.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from pycat.kernels.cross_entropy import aligned
from pycat.kernels.sequence_stats import LOG2E, RawStats, empty_partials, sequence_stats
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


class Tile(NamedTuple):
    """How one program computes: tokens x ids x width of a step, and with what.

    `parts` of a tile's columns are searched for targets separately: 4, where a layout keeps each in
    the registers that hold it, else 1.
    """

    tokens: int
    ids: int
    width: int
    num_warps: int
    num_stages: int
    parts: int


# By architecture and bytes per element. The reasons are resource counts of compiled kernels, not
# times; docs/kernels.md has them all.
_TILES = {
    # Two warp groups with 128 accumulators a thread. Of the tiles of that size this one reads the
    # fewest bytes from L2 (768 per 2^16 operations); four buffers of 48 KiB fill shared memory.
    ("sm_90", 2): Tile(128, 256, 64, 8, 4, 4),
    ("sm_90", 4): Tile(128, 128, 16, 8, 3, 4),
    ("sm_80", 2): Tile(128, 128, 64, 8, 3, 4),
    ("sm_80", 4): Tile(128, 128, 16, 8, 3, 4),
    ("gfx9", 2): Tile(128, 128, 32, 8, 2, 1),
    ("gfx9", 4): Tile(64, 128, 16, 8, 2, 1),
}
# Row tiles that take turns before the next split: bounds what a wave of programs reads from L2.
_GROUP = 16
_MAX_TILES_PER_SPLIT = 8  # four bits of a 32-bit mask each
_MIN_SPLITS = 16  # where V has as many tiles: small batches still fill the device
_NORM_ROWS, _NORM_BLOCK = 16, 256


@triton.jit
def _either(a, b):
    return a | b


@triton.jit
def _decode(item, num_row_tiles, num_splits, GROUP: tl.constexpr):
    """Checkpoint, row tile and split of a work item: in groups of row tiles, split by split."""
    per_checkpoint = num_row_tiles * num_splits
    k = item // per_checkpoint
    rest = item % per_checkpoint
    first = rest // (GROUP * num_splits) * GROUP
    size = tl.minimum(num_row_tiles - first, GROUP)
    rest = rest % (GROUP * num_splits)
    return k, first + rest % size, rest // size


@triton.jit
def _row_starts(k, rows, num_rows, width):
    """Offsets of rows of a (K, num_rows, width) operand, in int64 from the first product on."""
    return (k.to(tl.int64) * num_rows + rows) * width


@triton.jit
def _load_rows(ptr, k, rows, cols, num_rows, width):
    """Rows x columns of a (K, num_rows, width) operand, 0 beyond its ends."""
    starts = _row_starts(k, rows, num_rows, width)
    mask = (rows[:, None] < num_rows) & (cols[None, :] < width)
    return tl.load(ptr + starts[:, None] + cols[None, :], mask=mask, other=0.0)


@triton.jit
def _find_targets(
    targets_ptr,  # (T,)
    rows,  # (BLOCK_T,)
    first_v,
    split_width,
    num_tokens,
    vocab_size,
    PART_V: tl.constexpr,
):
    """Column of each row's target in a split, -1 where it is elsewhere; bits of parts with one."""
    y = tl.load(targets_ptr + rows, mask=rows < num_tokens, other=-1).to(tl.int64)
    inside = (y >= first_v) & (y < first_v + split_width) & (y < vocab_size)
    target_col = tl.where(inside, y - first_v, -1).to(tl.int32)
    bits = tl.where(inside, 1 << (target_col // PART_V), 0)
    return target_col, tl.reduce(bits, 0, _either)


@triton.jit
def _halves(x):
    """Left and right half of the columns: other names for the same registers, nothing moves."""
    ROWS: tl.constexpr = x.shape[0]
    COLS: tl.constexpr = x.shape[1] // 2
    return tl.split(x.reshape(ROWS, 2, COLS).permute(0, 2, 1))


@triton.jit
def _mask_part(
    z,  # (BLOCK_T, PART_V)
    bias_ptr,  # (V,)
    v0,
    vocab_size,
    target_col,  # (BLOCK_T,), a column of z or beyond
    has_target,
    target_logit,  # (BLOCK_T,)
    HAS_BIAS: tl.constexpr,
):
    """Add the bias; set to -inf the ids beyond V and, once its logit is kept, the target."""
    COLS: tl.constexpr = z.shape[1]
    cols = tl.arange(0, COLS)
    if HAS_BIAS:
        inside = v0 + cols < vocab_size
        z += tl.load(bias_ptr + v0 + cols, mask=inside, other=0.0).to(tl.float32)[None, :]
    if v0 + COLS > vocab_size:
        z = tl.where(cols[None, :] < vocab_size - v0, z, float("-inf"))
    if has_target:
        is_target = cols[None, :] == target_col[:, None]
        target_logit += tl.sum(tl.where(is_target, z, 0.0), 1)
        z = tl.where(is_target, float("-inf"), z)
    return z, target_logit


@triton.jit
def _add_part(z, shift, sum_exp, sum_exp_sq, sum_exp_z, ALL: tl.constexpr):
    """Add the exponentials of z (BLOCK_T, PART_V) to the sums (BLOCK_T,) of their rows."""
    scaled = tl.full(z.shape, LOG2E, tl.float32)
    t = tl.fma(z, scaled, tl.broadcast_to(-shift[:, None], z.shape))
    e = tl.exp2(t)
    if ALL:
        sum_exp_sq += tl.sum(e * e, 1)
        # 2^-200 is zero in float32; clamped, a zero times -inf does not make NaN.
        sum_exp_z += tl.sum(e * tl.maximum(t, -200.0), 1)
    return sum_exp + tl.sum(e, 1), sum_exp_sq, sum_exp_z


@triton.jit
def _reduce_tile(
    acc,  # (BLOCK_T, BLOCK_V), products without the bias
    bias_ptr,  # (V,)
    v0,
    vocab_size,
    target_col,  # (BLOCK_T,), a column of acc or beyond
    holders,
    reference,  # (BLOCK_T,), like all that follow
    sum_exp,
    sum_exp_sq,
    sum_exp_z,
    max_logit,
    target_logit,
    PARTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ALL: tl.constexpr,
):
    """Take the logits of a tile of ids into the running sums of their rows."""
    PART_V: tl.constexpr = acc.shape[1] // PARTS
    # Taken apart before anything branches: Triton waits for the last product where the accumulators
    # are first used, and misses uses that are only passed out of a branch.
    if PARTS == 4:
        left, right = _halves(acc)
        parts = _halves(left) + _halves(right)
    else:
        parts = (acc,)
    masked = ()
    for part in tl.static_range(PARTS):
        z, target_logit = _mask_part(
            parts[part],
            bias_ptr,
            v0 + part * PART_V,
            vocab_size,
            target_col - part * PART_V,
            (holders >> part) & 1,
            target_logit,
            HAS_BIAS,
        )
        masked = masked + (z,)  # type: ignore[assignment]  # noqa: RUF005  (no * in Triton)
    tile_max = masked[0]  # type: ignore[misc]
    for part in tl.static_range(1, PARTS):
        tile_max = tl.maximum(tile_max, masked[part])
    tile_max = tl.max(tile_max, 1)

    # The sums so far, rescaled to the new reference.
    raised = tl.maximum(reference, tl.floor(tile_max * LOG2E))
    shift = tl.where(raised == float("-inf"), 0.0, raised)
    lowered = tl.maximum(reference - shift, -200.0)
    scale = tl.exp2(lowered)
    if ALL:
        sum_exp_sq *= scale * scale
        sum_exp_z = (sum_exp_z + lowered * sum_exp) * scale
        max_logit = tl.maximum(max_logit, tile_max)
    sum_exp *= scale

    for part in tl.static_range(PARTS):
        sum_exp, sum_exp_sq, sum_exp_z = _add_part(
            masked[part], shift, sum_exp, sum_exp_sq, sum_exp_z, ALL
        )
    return raised, sum_exp, sum_exp_sq, sum_exp_z, max_logit, target_logit


@triton.jit(do_not_specialize=["num_checkpoints", "num_tokens", "vocab_size", "tiles_per_split"])
def _linear_kernel(
    hidden,  # (K, T, H): a pointer, with TMA a descriptor
    weight,  # (K, V, H): likewise
    bias_ptr,  # (K, V)
    targets_ptr,  # (T,)
    partials_ptr,  # (fields, K, splits, T)
    target_logit_ptr,  # (K, T)
    num_checkpoints,
    num_tokens,
    vocab_size,
    width,
    tiles_per_split,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PARTS: tl.constexpr,
    GROUP: tl.constexpr,
    TMA: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ALL: tl.constexpr,
):
    split_width = tiles_per_split * BLOCK_V
    num_row_tiles = tl.cdiv(num_tokens, BLOCK_T)
    num_splits = tl.cdiv(vocab_size, split_width)
    num_items = num_checkpoints * num_row_tiles * num_splits
    num_programs = tl.num_programs(0)
    num_steps = tl.cdiv(width, BLOCK_H)
    my_items = tl.cdiv(num_items - tl.program_id(0), num_programs)
    lanes = tl.arange(0, BLOCK_T)
    cols = tl.arange(0, BLOCK_V)

    # Where the loads are: step of a tile, tile of an item, item. Loads run ahead of the epilogue,
    # which counts tiles and items for itself.
    step = num_steps - 1
    tile = tiles_per_split - 1
    item = tl.program_id(0) - num_programs
    k = item * 0
    t0 = item * 0
    split_v0 = item * 0
    done_tile = tiles_per_split - 1
    done_item = tl.program_id(0) - num_programs

    # The tile under way, and of its rows, (BLOCK_T,) each, what the item has summed so far.
    acc = tl.zeros([BLOCK_T, BLOCK_V], tl.float32)
    target_col = tl.full([BLOCK_T], -1, tl.int32)
    holders = item * 0
    reference = tl.full([BLOCK_T], float("-inf"), tl.float32)
    sum_exp = tl.zeros([BLOCK_T], tl.float32)
    sum_exp_sq = tl.zeros([BLOCK_T], tl.float32)
    sum_exp_z = tl.zeros([BLOCK_T], tl.float32)
    max_logit = tl.full([BLOCK_T], float("-inf"), tl.float32)
    target_logit = tl.zeros([BLOCK_T], tl.float32)
    for _ in tl.range(0, my_items * tiles_per_split * num_steps):
        # Offsets.
        step = tl.where(step == num_steps - 1, 0, step + 1)
        if step == 0:
            tile = tl.where(tile == tiles_per_split - 1, 0, tile + 1)
            if tile == 0:
                item += num_programs
                k, row_tile, split = _decode(item, num_row_tiles, num_splits, GROUP)
                t0 = row_tile * BLOCK_T
                split_v0 = split * split_width
        v0 = split_v0 + tile * BLOCK_V
        h0 = step * BLOCK_H

        # Product: acc (BLOCK_T, BLOCK_V) += a (BLOCK_T, BLOCK_H) @ b (BLOCK_V, BLOCK_H).T
        if TMA:
            a = hidden.load([k, t0, h0]).reshape(BLOCK_T, BLOCK_H)
            b = weight.load([k, v0, h0]).reshape(BLOCK_V, BLOCK_H)
        else:
            hs = h0 + tl.arange(0, BLOCK_H)
            a = _load_rows(hidden, k, t0 + lanes, hs, num_tokens, width)
            b = _load_rows(weight, k, v0 + cols, hs, vocab_size, width)
        acc = tl.dot(a, b.T, acc, input_precision="ieee")

        if step == num_steps - 1:
            # Epilogue: the tile is complete.
            done_tile = tl.where(done_tile == tiles_per_split - 1, 0, done_tile + 1)
            if done_tile == 0:
                done_item += num_programs
            done_k, done_row_tile, done_split = _decode(done_item, num_row_tiles, num_splits, GROUP)
            rows = done_row_tile * BLOCK_T + lanes
            first_v = done_split * split_width
            if done_tile == 0:
                target_col, holders = _find_targets(
                    targets_ptr,
                    rows,
                    first_v,
                    split_width,
                    num_tokens,
                    vocab_size,
                    BLOCK_V // PARTS,
                )
                reference = tl.full([BLOCK_T], float("-inf"), tl.float32)
                sum_exp = tl.zeros([BLOCK_T], tl.float32)
                sum_exp_sq = tl.zeros([BLOCK_T], tl.float32)
                sum_exp_z = tl.zeros([BLOCK_T], tl.float32)
                max_logit = tl.full([BLOCK_T], float("-inf"), tl.float32)
                target_logit = tl.zeros([BLOCK_T], tl.float32)
            reference, sum_exp, sum_exp_sq, sum_exp_z, max_logit, target_logit = _reduce_tile(
                acc,
                bias_ptr + done_k.to(tl.int64) * vocab_size,
                first_v + done_tile * BLOCK_V,
                vocab_size,
                target_col - done_tile * BLOCK_V,
                holders >> (PARTS * done_tile),
                reference,
                sum_exp,
                sum_exp_sq,
                sum_exp_z,
                max_logit,
                target_logit,
                PARTS,
                HAS_BIAS,
                ALL,
            )
            # Zeros that the compiler cannot see are such: known ones it would choose by a select
            # outside of this branch, which reads accumulators in flight and so serialises products.
            opaque = done_tile.to(tl.float32)
            acc = tl.zeros([BLOCK_T, BLOCK_V], tl.float32) + (opaque - opaque)

            # Store: the item is complete.
            if done_tile == tiles_per_split - 1:
                inside = rows < num_tokens
                at = (done_k.to(tl.int64) * num_splits + done_split) * num_tokens + rows
                field = num_checkpoints.to(tl.int64) * num_splits * num_tokens
                tl.store(partials_ptr + at, reference, mask=inside)
                tl.store(partials_ptr + field + at, sum_exp, mask=inside)
                if ALL:
                    tl.store(partials_ptr + 2 * field + at, sum_exp_sq, mask=inside)
                    tl.store(partials_ptr + 3 * field + at, sum_exp_z, mask=inside)
                    tl.store(partials_ptr + 4 * field + at, max_logit, mask=inside)
                at = done_k.to(tl.int64) * num_tokens + rows
                tl.store(target_logit_ptr + at, target_logit, mask=inside & (target_col >= 0))


@triton.jit(do_not_specialize=["num_rows"])
def _norm_kernel(
    hidden_ptr,  # (rows, H)
    norm_ptr,  # (rows,)
    num_rows,
    width,
    ROWS: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Euclidean norms of rows; torch's own norm sums in an order that depends on T."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS, BLOCK_H], tl.float32)
    for h0 in tl.range(0, width, BLOCK_H):
        hs = h0 + tl.arange(0, BLOCK_H)
        mask = (rows[:, None] < num_rows) & (hs[None, :] < width)
        h = tl.load(hidden_ptr + rows[:, None] * width + hs[None, :], mask=mask, other=0.0)
        h = h.to(tl.float32)
        total += h * h
    tl.store(norm_ptr + rows, tl.sqrt(tl.sum(total, 1)), mask=rows < num_rows)


def _architecture(device: torch.device) -> str:
    """Key of the tile table: sm_90 for Hopper and its successors in data centres."""
    if device.type != "cuda":
        return "sm_90"  # Triton's interpreter
    if torch.version.hip is not None:
        return "gfx9"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        raise ValueError(
            f"{torch.cuda.get_device_name(device)} is sm_{major}{minor}; expected sm_80 or newer: "
            "pass device 'cpu'"
        )
    return "sm_90" if major in (9, 10) else "sm_80"


def _tiles_per_split(num_tiles: int) -> int:
    """Tiles of ids in a split: few enough to make `_MIN_SPLITS`, and with little left over.

    Depends on V and the tile alone, as the order of sums does.
    """
    max_tiles = max(1, min(num_tiles // _MIN_SPLITS, _MAX_TILES_PER_SPLIT))
    choices = range(max_tiles, (max_tiles - 1) // 2, -1)
    return min(choices, key=lambda tiles: -num_tiles % tiles)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    cu_seqlens: Tensor,
    ignore_index: int,
    all_stats: bool,
    per_token: bool,
) -> RawStats:
    """Per-sequence statistics of `hidden @ weight.T + bias`; does not wait for the device.

    The operands are those that `ops.cat_linear_cross_entropy` has checked.

    Args:
        hidden: (K, T, H), float32, bfloat16 or float16; copied unless contiguous and aligned, and
            H a multiple of 16.
        weight: (K, V, H), the same dtype; likewise.
        bias: (K, V) or None, float32, bfloat16 or float16.
        targets: int32 or int64 (T,), ids in [0, V) or `ignore_index`.
        cu_seqlens: int32 or int64 (B + 1,), rising from 0 to T.
        ignore_index: targets that count nothing.
        all_stats: the seven statistics instead of nll alone.
        per_token: also nll of every token.

    Returns:
        As `cross_entropy`, with grad_norm_bound as the seventh of the sums.
    """
    num_checkpoints, num_tokens, width = hidden.shape
    vocab_size = weight.shape[1]
    targets, cu_seqlens = targets.contiguous(), cu_seqlens.contiguous()
    bias = None if bias is None else bias.contiguous()

    architecture = _architecture(hidden.device)
    tile = _TILES[architecture, hidden.element_size()]
    tiles_per_split = _tiles_per_split(triton.cdiv(vocab_size, tile.ids))
    num_splits = triton.cdiv(vocab_size, tiles_per_split * tile.ids)
    # Rows of 16-byte units for the copy engine, of 16 elements for wide loads; zeros add nothing.
    tma = architecture == "sm_90" and hidden.element_size() == 2
    padding = -width % (8 if tma else 16)
    if width == 0:
        padding = tile.width  # one step of zeros: the logits are the bias
    if padding:
        hidden, weight = (torch.nn.functional.pad(x, (0, padding)) for x in (hidden, weight))
        width += padding
    hidden, weight = aligned(hidden), aligned(weight)
    partials, target_logit = empty_partials(
        num_checkpoints, num_splits, num_tokens, all_stats, hidden.device
    )
    norms = torch.empty_like(target_logit) if all_stats else None
    if num_tokens > 0:
        with torch.cuda.device_of(hidden):
            if norms is not None:
                num_rows = num_checkpoints * num_tokens
                _norm_kernel[(triton.cdiv(num_rows, _NORM_ROWS),)](
                    *(hidden, norms, num_rows, width),
                    ROWS=_NORM_ROWS,
                    BLOCK_H=_NORM_BLOCK,
                    num_warps=4,
                )
            num_items = num_checkpoints * triton.cdiv(num_tokens, tile.tokens) * num_splits
            rows, ids = [1, tile.tokens, tile.width], [1, tile.ids, tile.width]
            _linear_kernel[(min(num_items, _num_programs(hidden.device)),)](
                TensorDescriptor.from_tensor(hidden, rows) if tma else hidden,
                TensorDescriptor.from_tensor(weight, ids) if tma else weight,
                target_logit if bias is None else bias,
                targets,
                partials,
                target_logit,
                num_checkpoints,
                num_tokens,
                vocab_size,
                width,
                tiles_per_split,
                BLOCK_T=tile.tokens,
                BLOCK_V=tile.ids,
                BLOCK_H=tile.width,
                PARTS=tile.parts,
                GROUP=_GROUP,
                TMA=tma,
                HAS_BIAS=bias is not None,
                ALL=all_stats,
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
            )
    return sequence_stats(
        partials,
        target_logit,
        norms,
        targets,
        cu_seqlens,
        vocab_size,
        ignore_index,
        all_stats,
        per_token,
    )


def _num_programs(device: torch.device) -> int:
    """Programs that run at once; three in the interpreter, so that its programs persist too."""
    if device.type != "cuda":
        return 3
    return torch.cuda.get_device_properties(device).multi_processor_count
