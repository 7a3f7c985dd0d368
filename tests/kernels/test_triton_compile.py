"""Every Triton kernel, compiled for real GPUs without one, stays within their resources."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")
if triton.knobs.runtime.interpret:
    pytest.skip("Triton's interpreter is on: nothing is compiled", allow_module_level=True)

from pycat.kernels import (  # noqa: E402
    cross_entropy,
    linear_cross_entropy,
    residual,
    sequence_stats,
    smoothed_cross_entropy,
)
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_BYTES = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}
REGISTERS = 65536  # of one multiprocessor
ITEMSIZE = {"bf16": 2, "fp16": 2, "fp32": 4}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Resources(NamedTuple):
    """Per thread: registers and bytes of stack (spills); per program: bytes of shared memory."""

    registers: int
    stack: int
    shared: int
    asm: dict[str, Any]

    @property
    def text(self) -> str:
        return str(self.asm.get("ptx", self.asm.get("amdgcn")))


def run_tool(name: str, cubin: bytes, *options: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / name), *options, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def disassemble(resources: Resources) -> str:
    return run_tool("nvdisasm", resources.asm["cubin"])


def compile_for(
    target: str,
    kernel: Any,
    pointers: dict[str, str],
    constants: dict[str, Any],
    multiples: tuple[str, ...] = (),
    **options: int,
) -> Resources:
    """Compiles a kernel as its launcher would; names in `multiples` are multiples of 16."""
    signature, attributes = {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        else:
            signature[name] = pointers.get(name, "i32")
            if signature[name][0] == "*" or name in multiples:
                attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=TARGETS[target], options=options)
    if target == "gfx942":
        text = compiled.asm["amdgcn"]
        registers = int(re.findall(r"\.vgpr_count:\s+(\d+)", text)[0])
        stack = int(re.findall(r"\.private_segment_fixed_size:\s+(\d+)", text)[0])
    else:
        usage = run_tool("cuobjdump", compiled.asm["cubin"], "-res-usage")
        found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
        assert found, usage
        registers, stack = int(found[1]), int(found[2])
    return Resources(registers, stack, compiled.metadata.shared, compiled.asm)


def compile_linear(
    target: str, dtype: str, *, tma: bool, bias: bool, all_stats: bool
) -> tuple[Resources, linear_cross_entropy.Tile]:
    architecture = "gfx9" if target == "gfx942" else target
    tile = linear_cross_entropy._TILES[architecture, ITEMSIZE[dtype]]
    operand = [f"tensordesc<{dtype}[1, {rows}, {tile.width}]>" for rows in (tile.tokens, tile.ids)]
    resources = compile_for(
        target,
        linear_cross_entropy._linear_kernel,
        {
            "hidden": operand[0] if tma else f"*{dtype}",
            "weight": operand[1] if tma else f"*{dtype}",
            "bias_ptr": "*fp32",
            "targets_ptr": "*i64",
            "partials_ptr": "*fp32",
            "target_logit_ptr": "*fp32",
        },
        {
            "BLOCK_T": tile.tokens,
            "BLOCK_V": tile.ids,
            "BLOCK_H": tile.width,
            "PARTS": tile.parts,
            "GROUP": linear_cross_entropy._GROUP,
            "TMA": tma,
            "HAS_BIAS": bias,
            "ALL": all_stats,
        },
        ("width",),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return resources, tile


def compile_logits(target: str, dtype: str, *, all_stats: bool, vectors: bool) -> Resources:
    return compile_for(
        target,
        cross_entropy._logits_kernel,
        {
            "logits_ptr": f"*{dtype}",
            "targets_ptr": "*i64",
            "partials_ptr": "*fp32",
            "target_logit_ptr": "*fp32",
        },
        {
            "BLOCK_V": cross_entropy._MAX_BLOCK_V,
            "ROW_MULTIPLE": 16 // ITEMSIZE[dtype] if vectors else 1,
            "ALL": all_stats,
        },
        num_warps=8,
    )


def compile_sequences(target: str, *, all_stats: bool, block_splits: int) -> Resources:
    return compile_for(
        target,
        sequence_stats._sequence_kernel,
        {
            "partials_ptr": "*fp32",
            "target_logit_ptr": "*fp32",
            "norm_ptr": "*fp32",
            "targets_ptr": "*i64",
            "cu_seqlens_ptr": "*i32",
            "sums_ptr": "*fp64",
            "counts_ptr": "*i64",
            "ppl_mean_ptr": "*fp64",
            "ppl_var_ptr": "*fp64",
            "nll_per_token_ptr": "*fp32",
            "first_bad_ptr": "*i64",
        },
        {
            "BLOCK_SPLITS": block_splits,
            "BLOCK_TOKENS": sequence_stats._BLOCK_TOKENS,
            "ALL": all_stats,
            "HAS_NORM": all_stats,
            "PER_TOKEN": True,
        },
        num_warps=1,
    )


def compile_norms(target: str, dtype: str) -> Resources:
    return compile_for(
        target,
        linear_cross_entropy._norm_kernel,
        {"hidden_ptr": f"*{dtype}", "norm_ptr": "*fp32"},
        {"ROWS": linear_cross_entropy._NORM_ROWS, "BLOCK_H": linear_cross_entropy._NORM_BLOCK},
        ("width",),
        num_warps=4,
    )


def assert_within(target: str, resources: Resources, num_warps: int) -> None:
    assert resources.stack == 0, f"{resources.stack} bytes of registers spilled"
    limit = 512 if target == "gfx942" else 255
    assert resources.registers <= limit
    if target != "gfx942":
        assert resources.registers * 32 * num_warps <= REGISTERS
    assert resources.shared <= SHARED_BYTES[target]


def assert_present(resources: Resources, *instructions: str) -> None:
    missing = [name for name in instructions if name not in resources.text]
    assert not missing, f"no {missing}"


LINEAR = [
    ("sm_90", "bf16", True, ("wgmma.mma_async", "cp.async.bulk.tensor")),
    ("sm_90", "fp16", True, ("wgmma.mma_async", "cp.async.bulk.tensor")),
    ("sm_90", "fp32", False, ("fma.rn.f32", "cp.async.cg")),
    ("sm_80", "bf16", False, ("mma.sync", "cp.async.cg")),
    ("sm_80", "fp16", False, ("mma.sync", "cp.async.cg")),
    ("sm_80", "fp32", False, ("fma.rn.f32", "cp.async.cg")),
    ("gfx942", "bf16", False, ("v_mfma_f32_32x32x8_bf16", "v_exp_f32")),
    ("gfx942", "fp16", False, ("v_mfma_f32_32x32x8_f16", "v_exp_f32")),
    ("gfx942", "fp32", False, ("v_mfma_f32", "v_exp_f32")),
]


@pytest.mark.parametrize("all_stats", [False, True])
@pytest.mark.parametrize(("target", "dtype", "tma", "instructions"), LINEAR)
def test_linear_kernel(
    target: str, dtype: str, tma: bool, instructions: tuple[str, ...], all_stats: bool
) -> None:
    # A bias takes more registers than none.
    resources, tile = compile_linear(target, dtype, tma=tma, bias=True, all_stats=all_stats)
    assert_within(target, resources, tile.num_warps)
    assert_present(resources, *instructions)
    if target == "gfx942":
        return
    exponentials = resources.text.count("ex2.approx")
    per_thread = tile.tokens * tile.ids // (32 * tile.num_warps)
    assert per_thread <= exponentials <= per_thread + 8, "one per logit, and few to rescale"
    if dtype == "fp32":
        assert "tf32" not in resources.text


@pytest.mark.parametrize(("dtype", "all_stats"), [("bf16", False), ("fp16", True)])
def test_linear_kernel_without_bias(dtype: str, all_stats: bool) -> None:
    resources, tile = compile_linear("sm_90", dtype, tma=True, bias=False, all_stats=all_stats)
    assert_within("sm_90", resources, tile.num_warps)


def test_no_accumulator_is_read_in_flight() -> None:
    """Triton may wait for a product only inside a branch, and read it past the other unfinished."""
    resources, _ = compile_linear("sm_90", "bf16", tma=True, bias=False, all_stats=False)
    lines = [line.strip() for line in resources.asm["ttgir"].splitlines()]
    in_flight = [line for line in lines if "warp_group_dot_wait" in line and "pendings = 1" in line]
    assert len(in_flight) == 1, "the loop overlaps a product with the next step's loads"
    name = re.escape(in_flight[0].split(":")[0]) + r"#0\b"
    readers = [line for line in lines if re.search(name, line)]
    # Read by the wait in the epilogue's branch, and passed on by the other one.
    assert [re.split(r" = |\.", line)[0] == "scf" for line in readers] == [False, True]
    assert "pendings = 0" in readers[0]
    # The assembler serialises products whose accumulators are touched meanwhile: it would wait for
    # each, where one remains in flight and only the epilogue and the end wait for all.
    code = disassemble(resources)
    assert code.count("HGMMA") == 4
    assert len(re.findall(r"WARPGROUP.DEPBAR.LE gsb0, 0x1", code)) == 1
    assert len(re.findall(r"WARPGROUP.DEPBAR.LE gsb0, 0x0", code)) == 2, "epilogue and end"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("all_stats", [False, True])
def test_logits_kernel(target: str, dtype: str, all_stats: bool) -> None:
    for vectors in (True, False):
        resources = compile_logits(target, dtype, all_stats=all_stats, vectors=vectors)
        assert_within(target, resources, 8)
        if target == "gfx942":
            wide = "global_load_dwordx4" in resources.text
            assert wide is vectors
            continue
        # Both loads, of a full block and of the masked last one, are of 16 bytes or neither.
        assert resources.text.count("ld.global.v4") == (2 * ITEMSIZE[dtype] * 2 if vectors else 0)
        # One exponential per logit: 8192 of them by 256 threads.
        assert resources.text.count("ex2.approx") == 32
        if target == "sm_90":
            assert resources.registers <= 80, "three programs of 8 warps a multiprocessor"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("all_stats", [False, True])
def test_sequence_kernel(target: str, all_stats: bool) -> None:
    for block_splits in (1, sequence_stats._MAX_BLOCK_SPLITS):
        resources = compile_sequences(target, all_stats=all_stats, block_splits=block_splits)
        assert_within(target, resources, 1)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_norm_kernel(target: str, dtype: str) -> None:
    assert_within(target, compile_norms(target, dtype), 4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("width", [256, 512, 1024])
def test_residual_kernels(target: str, dtype: str, width: int) -> None:
    rows = residual._TILE // width
    norm = compile_for(
        target,
        residual._add_norm_kernel,
        {
            **dict.fromkeys(("x_ptr", "bias_ptr", "gain_ptr", "shift_ptr"), "*fp32"),
            **dict.fromkeys(("delta_ptr", "out_ptr"), f"*{dtype}"),
            "eps": "fp32",
        },
        {"ROWS": rows, "BLOCK": width, "HAS_DELTA": True, "AFFINE": True},
        ("width",),
        num_warps=4,
    )
    bias = compile_for(
        target,
        residual._add_bias_kernel,
        {"x_ptr": f"*{dtype}", "bias_ptr": "*fp32"},
        {"ROWS": rows, "BLOCK": width, "RELU": True},
        ("width", "stride_row"),
        num_warps=4,
    )
    for resources in (norm, bias):
        assert_within(target, resources, 4)
        wide = "global_load_dwordx4" if target == "gfx942" else "ld.global.v4"
        assert_present(resources, wide)
        if target != "gfx942":
            assert resources.registers <= 128, "four programs of four warps a multiprocessor"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_smoothed_cross_entropy_kernel(target: str, dtype: str) -> None:
    used = compile_for(
        target,
        smoothed_cross_entropy._loss_and_gradient_kernel,
        {
            "logits_ptr": f"*{dtype}",
            "targets_ptr": "*i64",
            "weights_ptr": "*fp32",
            "losses_ptr": "*fp32",
            "smoothing": "fp32",
        },
        {"BLOCK_V": smoothed_cross_entropy._BLOCK_V},
        ("vocab_size", "stride_row"),
        num_warps=8,
    )
    assert used.stack == 0
    assert used.shared <= SHARED_BYTES[target]
    # Four programs of 256 threads at a time hide each other's waits for memory.
    assert used.registers * 256 * 4 <= REGISTERS
