#pragma once

#include "simd/avx512.h"

namespace pycat {
namespace {

/// Pairs of bfloat16: sum + a0 b0 + a1 b1 in one instruction.
struct PairDot {
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
