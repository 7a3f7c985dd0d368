#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/exponential_series.h"

namespace pycat {
namespace {

#define PYCAT_SIMD __attribute__((always_inline)) inline

using Floats = __m512;
using Ints = std::int32_t __attribute__((vector_size(64)));
constexpr int kLanes = 16;
// A mask of all lanes: GCC 12 warns of uninitialised values inside the unmasked forms of some
// intrinsics.
constexpr __mmask16 kAllLanes = 0xFFFF;

PYCAT_SIMD Floats load(const float* at) { return _mm512_loadu_ps(at); }
PYCAT_SIMD void store(float* at, Floats a) { _mm512_storeu_ps(at, a); }
PYCAT_SIMD Floats broadcast(float a) { return _mm512_set1_ps(a); }
PYCAT_SIMD Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
PYCAT_SIMD Floats max(Floats a, Floats b) { return _mm512_maskz_max_ps(kAllLanes, a, b); }
PYCAT_SIMD bool any_greater(Floats a, Floats b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
}
PYCAT_SIMD Floats select_greater(Floats a, Floats b, Floats x, Floats y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
}

PYCAT_SIMD Floats exponential(Floats d) {
  const Floats x = d * broadcast(kLog2E);
  const Floats f = _mm512_reduce_ps(x, 1);  // x - floor(x); 0 of -inf
  Floats y = multiply_add(f, broadcast(kSeries5), broadcast(kSeries4));
  y = multiply_add(f, y, broadcast(kSeries3));
  y = multiply_add(f, y, broadcast(kSeries2));
  y = multiply_add(f, y, broadcast(kSeries1));
  y = multiply_add(f, y, broadcast(1.0F));
  return _mm512_maskz_scalef_ps(kAllLanes, y, x);  // y 2^floor(x)
}

PYCAT_SIMD Ints load_ints(const std::uint32_t* at) { return (Ints)_mm512_loadu_si512(at); }
PYCAT_SIMD void store_ints(std::uint32_t* at, Ints a) { _mm512_storeu_si512(at, (__m512i)a); }
PYCAT_SIMD Ints broadcast_int(std::uint32_t a) {
  return (Ints)_mm512_set1_epi32(static_cast<int>(a));
}
PYCAT_SIMD Floats to_floats(Ints a) { return _mm512_maskz_cvtepi32_ps(kAllLanes, (__m512i)a); }
PYCAT_SIMD Ints round_to_ints(Floats a) { return (Ints)_mm512_maskz_cvtps_epi32(kAllLanes, a); }
/// Products of 16-bit numbers, added in pairs.
PYCAT_SIMD Ints multiply_pairs(Ints a, Ints b) {
  return (Ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
}
/// Products of unsigned bytes `a` and signed bytes `b`, added in pairs to 16-bit numbers.
PYCAT_SIMD Ints multiply_bytes(Ints a, Ints b) {
  return (Ints)_mm512_maddubs_epi16((__m512i)a, (__m512i)b);
}
PYCAT_SIMD Ints add_shorts(Ints a, Ints b) {
  return (Ints)_mm512_add_epi16((__m512i)a, (__m512i)b);
}

/// Nothing, but the compiler must have `a` in a register here.
PYCAT_SIMD void pin(Ints& a) { asm("" : "+v"(a)); }

/// Products of words that are float32.
struct FloatDot {
  using Words = Floats;
  static PYCAT_SIMD Words load(const std::uint32_t* words) {
    return _mm512_castsi512_ps(_mm512_loadu_si512(words));
  }
  static PYCAT_SIMD Words broadcast(std::uint32_t word) {
    return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(word)));
  }
  static PYCAT_SIMD Floats add(Floats sum, Words a, Words b) { return _mm512_fmadd_ps(a, b, sum); }
};

}  // namespace
}  // namespace pycat
