#include "simd/cpu_isa.h"

#include <cstdlib>
#include <stdexcept>
#if defined(PYCAT_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace pycat {
namespace {

#ifdef PYCAT_ARM64
bool has_dot_products() {
#ifdef __linux__
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return true;  // Apple's 64-bit processors for computers all have them
#endif
}
#endif

std::vector<CpuIsa> detect() {
  std::vector<CpuIsa> isas = {CpuIsa::kPortable};
#ifdef PYCAT_X86
  __builtin_cpu_init();
  // An instruction set requires those before it: a hypervisor may hide some features. Only
  // AVX-VNNI is missing in most processors with AVX-512, whose own form of it they have.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return isas;
  if (!__builtin_cpu_supports("f16c")) return isas;
  isas.push_back(CpuIsa::kAvx2);
  if (__builtin_cpu_supports("avxvnni")) isas.push_back(CpuIsa::kAvxVnni);
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq")) return isas;
  if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return isas;
  isas.push_back(CpuIsa::kAvx512);
  if (__builtin_cpu_supports("avx512bf16")) isas.push_back(CpuIsa::kAvx512Bf16);
#endif
#ifdef PYCAT_ARM64
  isas.push_back(CpuIsa::kNeon);  // every 64-bit Arm processor has it
  if (has_dot_products()) isas.push_back(CpuIsa::kNeonDot);
#endif
  return isas;
}

std::string names(const std::vector<CpuIsa>& isas) {
  std::string list;
  for (const CpuIsa isa : isas) list += (list.empty() ? "" : ", ") + std::string(isa_name(isa));
  return list;
}

}  // namespace

const char* isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvxVnni:
      return "avx_vnni";
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kAvx512Bf16:
      return "avx512_bf16";
    case CpuIsa::kNeon:
      return "neon";
    case CpuIsa::kNeonDot:
      return "neon_dot";
    case CpuIsa::kPortable:
      break;
  }
  return "portable";
}

std::vector<CpuIsa> supported_isas() {
  static const std::vector<CpuIsa> isas = detect();
  return isas;
}

CpuIsa active_isa() {
  const std::vector<CpuIsa> isas = supported_isas();
  const char* requested = std::getenv("PYCAT_CPU_ISA");
  if (requested == nullptr || *requested == '\0') return isas.back();
  for (const CpuIsa isa : isas) {
    if (std::string(requested) == isa_name(isa)) return isa;
  }
  throw std::invalid_argument("PYCAT_CPU_ISA is \"" + std::string(requested) +
                              "\"; this processor and build support " + names(isas) +
                              ". Name one of these or leave it unset");
}

}  // namespace pycat
