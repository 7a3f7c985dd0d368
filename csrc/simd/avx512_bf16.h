#pragma once

#include "simd/avx512.h"

namespace pycat {
namespace {

/// Products of words that are pairs of bfloat16: sum + a0 b0 + a1 b1 in one instruction.
struct PairDot {
  using Words = __m512i;
  static PYCAT_SIMD Words load(const std::uint32_t* words) { return _mm512_loadu_si512(words); }
  static PYCAT_SIMD Words broadcast(std::uint32_t word) {
    return _mm512_set1_epi32(static_cast<int>(word));
  }
  static PYCAT_SIMD Floats add(Floats sum, Words a, Words b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
};

}  // namespace
}  // namespace pycat
