#pragma once

#include <string>
#include <vector>

namespace pycat {

/// Bodies of the compute loops, weakest first.
enum class CpuIsa { kPortable, kAvx2, kAvx512, kAvx512Bf16 };

/// Its name in PYCAT_CPU_ISA.
const char* isa_name(CpuIsa isa);

/// What this build and this processor can run, weakest first.
std::vector<CpuIsa> supported_isas();

/// The one to use: the best, or the one that the environment variable PYCAT_CPU_ISA names. Read at
/// every call, so a program may switch between calls.
/// Throws std::invalid_argument if that name is unknown or not supported here.
CpuIsa active_isa();

}  // namespace pycat
