#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/exponential_series.h"

namespace pycat {
namespace {

#define PYCAT_SIMD __attribute__((always_inline)) inline

using Floats = __m256;
using Ints = std::int32_t __attribute__((vector_size(32)));
constexpr int kLanes = 8;

PYCAT_SIMD Floats load(const float* at) { return _mm256_loadu_ps(at); }
PYCAT_SIMD void store(float* at, Floats a) { _mm256_storeu_ps(at, a); }
PYCAT_SIMD Floats broadcast(float a) { return _mm256_set1_ps(a); }
PYCAT_SIMD Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
PYCAT_SIMD Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
PYCAT_SIMD bool any_greater(Floats a, Floats b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
}
PYCAT_SIMD Floats select_greater(Floats a, Floats b, Floats x, Floats y) {
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}

PYCAT_SIMD Floats exponential(Floats d) {
  const Floats smallest = broadcast(-126.0F);  // the exponent of the smallest normal float32
  const Floats unbounded = d * broadcast(kLog2E);
  const Floats x = max(smallest, unbounded);
  const Floats whole = _mm256_floor_ps(x);
  const Floats f = x - whole;
  Floats y = multiply_add(f, broadcast(kSeries5), broadcast(kSeries4));
  y = multiply_add(f, y, broadcast(kSeries3));
  y = multiply_add(f, y, broadcast(kSeries2));
  y = multiply_add(f, y, broadcast(kSeries1));
  y = multiply_add(f, y, broadcast(1.0F));
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
  y = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), exponent));
  // 0 below the smallest exponent. NaN, which compares as not below, stays NaN.
  return _mm256_andnot_ps(_mm256_cmp_ps(unbounded, smallest, _CMP_LT_OQ), y);
}

PYCAT_SIMD Ints load_ints(const std::uint32_t* at) {
  return (Ints)_mm256_loadu_si256((const __m256i_u*)at);
}
PYCAT_SIMD void store_ints(std::uint32_t* at, Ints a) {
  _mm256_storeu_si256((__m256i_u*)at, (__m256i)a);
}
PYCAT_SIMD Ints broadcast_int(std::uint32_t a) {
  return (Ints)_mm256_set1_epi32(static_cast<int>(a));
}
PYCAT_SIMD Floats to_floats(Ints a) { return _mm256_cvtepi32_ps((__m256i)a); }
PYCAT_SIMD Ints round_to_ints(Floats a) { return (Ints)_mm256_cvtps_epi32(a); }
/// Products of 16-bit numbers, added in pairs.
PYCAT_SIMD Ints multiply_pairs(Ints a, Ints b) {
  return (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
}
/// Products of unsigned bytes `a` and signed bytes `b`, added in pairs to 16-bit numbers.
PYCAT_SIMD Ints multiply_bytes(Ints a, Ints b) {
  return (Ints)_mm256_maddubs_epi16((__m256i)a, (__m256i)b);
}
PYCAT_SIMD Ints add_shorts(Ints a, Ints b) {
  return (Ints)_mm256_add_epi16((__m256i)a, (__m256i)b);
}

/// Nothing, but the compiler must have `a` in a register here.
PYCAT_SIMD void pin(Ints& a) { asm("" : "+x"(a)); }

/// Products of words that are float32.
struct FloatDot {
  using Words = Floats;
  static PYCAT_SIMD Words load(const std::uint32_t* words) {
    return _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i_u*)words));
  }
  static PYCAT_SIMD Words broadcast(std::uint32_t word) {
    return _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(word)));
  }
  static PYCAT_SIMD Floats add(Floats sum, Words a, Words b) { return _mm256_fmadd_ps(a, b, sum); }
};

}  // namespace
}  // namespace pycat
