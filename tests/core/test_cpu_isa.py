"""Which instruction sets the extension finds, beside what the system says of the processor."""

import platform
from pathlib import Path

import pytest

from pycat import _core

NEEDED = {
    "avx2": {"avx2", "fma", "f16c"},
    "avx_vnni": {"avx2", "fma", "f16c", "avx_vnni"},
    "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512dq", "avx512bw", "avx512vl"},
    "avx512_bf16": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_bf16"},
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="not an x86-64 processor")
def test_instruction_sets_are_those_of_the_processor() -> None:
    flags = set(Path("/proc/cpuinfo").read_text("utf-8").split())
    expected = {name for name, needed in NEEDED.items() if needed <= flags}
    assert set(_core.supported_cpu_isas()) == {"portable", *expected}
