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

from pycat.kernels import cross_entropy, linear_cross_entropy, sequence_stats  # noqa: E402
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
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            cubin.write(compiled.asm["cubin"])
            cubin.flush()
            command = [str(TOOLS / "cuobjdump"), "-res-usage", cubin.name]
            usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
        assert found, usage
        registers, stack = int(found[1]), int(found[2])
    return Resources(registers, stack, compiled.metadata.shared, compiled.asm)


def compile_linear(
    target: str, dtype: str, *, tma: bool, bias: bool, all_stats: bool, wide: bool = True
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
        ("width",) if wide else (),
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
