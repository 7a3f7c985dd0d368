#include "simd_avx512.h"

namespace pycat {
namespace {

/// Pairs of bfloat16: sum + a0 b0 + a1 b1 in one instruction.
struct Dot {
  using Unit = __m512i;
  static PYCAT_SIMD Unit load(const std::uint32_t* units) { return _mm512_loadu_si512(units); }
  static PYCAT_SIMD Unit spread(std::uint32_t unit) {
    return _mm512_set1_epi32(static_cast<int>(unit));
  }
  static PYCAT_SIMD Floats add(Floats sum, Unit a, Unit b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
};

}  // namespace
}  // namespace pycat

#include "cross_entropy_loop.h"

namespace pycat {

// 12 rows by 32 tokens: 24 sums, 2 vectors of tokens and 1 of a row in 32 registers; 14 loads for
// 24 products, which two a cycle hide.
const LinearKernel kAvx512Bf16Kernel = {12, 32, true, score_linear<Dot, 12, 2>};

}  // namespace pycat
