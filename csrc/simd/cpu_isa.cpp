#include "simd/cpu_isa.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#ifdef PYCAT_X86
#include <cpuid.h>
#endif
#if defined(PYCAT_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(PYCAT_ARM64)
#include <sys/sysctl.h>
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

/// Products of two rows and two tokens, of bfloat16 and of bytes: Armv8.6 has both.
bool has_matrix_products() {
#ifdef __linux__
  constexpr unsigned long kBoth = HWCAP2_BF16 | HWCAP2_I8MM;
  return (getauxval(AT_HWCAP2) & kBoth) == kBoth;
#else
  const auto has = [](const char* name) {
    int value = 0;
    std::size_t size = sizeof(value);
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  return has("hw.optional.arm.FEAT_BF16") && has("hw.optional.arm.FEAT_I8MM");
#endif
}
#endif

#ifdef PYCAT_X86
/// Registers that CPUID fills: eax, ebx, ecx, edx.
struct CpuidRegisters {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
};

/// Of a leaf and its part; zeros where the processor does not know the leaf.
CpuidRegisters cpuid(unsigned leaf, unsigned part) {
  CpuidRegisters found;
  if (__get_cpuid_count(leaf, part, &found.eax, &found.ebx, &found.ecx, &found.edx) == 0) return {};
  return found;
}

/// Which registers the system keeps when it switches threads: XCR0, whose instruction needs
/// OSXSAVE.
std::uint64_t kept_registers() {
  unsigned low = 0;
  unsigned high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

bool has_bits(std::uint64_t value, std::uint64_t bits) { return (value & bits) == bits; }

constexpr std::uint64_t bit(unsigned place) { return std::uint64_t{1} << place; }
#endif

/// On x86-64 by CPUID and not by the compiler's builtins, which some runtimes leave without
/// answers. Bits: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A, CPUID.
std::vector<CpuIsa> detect() {
  std::vector<CpuIsa> isas = {CpuIsa::kPortable};
#ifdef PYCAT_X86
  const CpuidRegisters basic = cpuid(1, 0);
  const CpuidRegisters extended = cpuid(7, 0);
  const CpuidRegisters further = extended.eax >= 1 ? cpuid(7, 1) : CpuidRegisters();
  // The processor must have FMA, OSXSAVE, AVX and F16C, in the order of these bits. The system must
  // keep the registers of SSE and AVX.
  if (!has_bits(basic.ecx, bit(12) | bit(27) | bit(28) | bit(29))) return isas;
  const std::uint64_t kept = kept_registers();
  if (!has_bits(kept, 0x6) || !has_bits(extended.ebx, bit(5))) return isas;
  // An instruction set requires those before it: a hypervisor may hide some features. Only
  // AVX-VNNI is missing in most processors with AVX-512, whose own form of it they have.
  isas.push_back(CpuIsa::kAvx2);
  if (has_bits(further.eax, bit(4))) isas.push_back(CpuIsa::kAvxVnni);
  // Masks and both halves of the 512-bit registers; AVX-512 F, DQ, BW and VL.
  if (!has_bits(kept, 0xE6)) return isas;
  if (!has_bits(extended.ebx, bit(16) | bit(17) | bit(30) | bit(31))) return isas;
  isas.push_back(CpuIsa::kAvx512);
  if (has_bits(further.eax, bit(5))) isas.push_back(CpuIsa::kAvx512Bf16);
#endif
#ifdef PYCAT_ARM64
  isas.push_back(CpuIsa::kNeon);  // every 64-bit Arm processor has it
  if (has_dot_products()) {
    isas.push_back(CpuIsa::kNeonDot);
    if (has_matrix_products()) isas.push_back(CpuIsa::kNeonBf16);
  }
#endif
  return isas;
}

std::string names(const std::vector<CpuIsa>& isas) {
  std::string list;
  for (const CpuIsa isa : isas) list += (list.empty() ? "" : ", ") + std::string(isa_name(isa));
  return list;
}

}  // namespace

#ifdef PYCAT_X86
bool has_avx512_vnni() { return has_bits(cpuid(7, 0).ecx, bit(11)); }
#endif

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
    case CpuIsa::kNeonBf16:
      return "neon_bf16";
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
