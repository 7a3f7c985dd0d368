#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/exponential_series.h"

namespace pycat {
namespace {

#define PYCAT_SIMD __attribute__((always_inline)) inline

using Floats = __m512;
constexpr int kLanes = 16;
// Masks nothing; GCC 12 warns of uninitialised values inside the unmasked forms of some intrinsics.
constexpr __mmask16 kAllLanes = 0xFFFF;

PYCAT_SIMD Floats load(const float* at) { return _mm512_loadu_ps(at); }
PYCAT_SIMD void store(float* at, Floats a) { _mm512_storeu_ps(at, a); }
PYCAT_SIMD Floats spread(float a) { return _mm512_set1_ps(a); }
PYCAT_SIMD Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
PYCAT_SIMD Floats larger(Floats a, Floats b) { return _mm512_maskz_max_ps(kAllLanes, a, b); }
PYCAT_SIMD bool any_greater(Floats a, Floats b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
}
PYCAT_SIMD Floats select_greater(Floats a, Floats b, Floats x, Floats y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
}

PYCAT_SIMD Floats exponential(Floats d) {
  const Floats x = d * spread(kLog2E);
  const Floats f = _mm512_reduce_ps(x, 1);  // x - floor(x); 0 of -inf
  Floats y = multiply_add(f, spread(kSeries5), spread(kSeries4));
  y = multiply_add(f, y, spread(kSeries3));
  y = multiply_add(f, y, spread(kSeries2));
  y = multiply_add(f, y, spread(kSeries1));
  y = multiply_add(f, y, spread(1.0F));
  return _mm512_maskz_scalef_ps(kAllLanes, y, x);  // y 2^floor(x)
}

/// Products of float32.
struct FloatDot {
  using Unit = Floats;
  static PYCAT_SIMD Unit load(const std::uint32_t* units) {
    return _mm512_castsi512_ps(_mm512_loadu_si512(units));
  }
  static PYCAT_SIMD Unit spread(std::uint32_t unit) {
    return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(unit)));
  }
  static PYCAT_SIMD Floats add(Floats sum, Unit a, Unit b) { return _mm512_fmadd_ps(a, b, sum); }
};

}  // namespace
}  // namespace pycat
