#pragma once

#include <string>
#include <vector>

namespace pycat {

/// Instruction sets that the compute loops are compiled for, weakest first on each kind of
/// processor. AVX-VNNI differs from AVX2, and NEON with dot products from NEON, in int8 alone.
/// kNeonBf16 has the products of two rows and two tokens, of bfloat16 and of bytes.
enum class CpuIsa { kPortable, kAvx2, kAvxVnni, kAvx512, kAvx512Bf16, kNeon, kNeonDot, kNeonBf16 };

/// The name of an instruction set in PYCAT_CPU_ISA.
const char* isa_name(CpuIsa isa);

/// The instruction sets that both this build and this processor support, weakest first.
std::vector<CpuIsa> supported_isas();

#ifdef PYCAT_X86
/// Whether an x86-64 processor that supports kAvx512 has its products of bytes too.
bool has_avx512_vnni();
#endif

/// The instruction set to use: the best supported one, or the one that the environment variable
/// PYCAT_CPU_ISA names. The variable is read at every call, so a program may switch between calls.
/// Throws std::invalid_argument if the name is unknown or not supported here.
CpuIsa active_isa();

}  // namespace pycat
