#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "simd/exponential_series.h"

namespace pycat {
namespace {

#define PYCAT_SIMD __attribute__((always_inline)) inline

using Floats = float32x4_t;
using Ints = int32x4_t;
constexpr int kLanes = 4;

PYCAT_SIMD Floats load(const float* at) { return vld1q_f32(at); }
PYCAT_SIMD void store(float* at, Floats a) { vst1q_f32(at, a); }
PYCAT_SIMD Floats broadcast(float a) { return vdupq_n_f32(a); }
PYCAT_SIMD Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
PYCAT_SIMD Floats select_greater(Floats a, Floats b, Floats x, Floats y) {
  return vbslq_f32(vcgtq_f32(a, b), x, y);
}
// Not vmaxq_f32, which returns NaN where either is NaN.
PYCAT_SIMD Floats max(Floats a, Floats b) { return select_greater(a, b, a, b); }
PYCAT_SIMD bool any_greater(Floats a, Floats b) { return vmaxvq_u32(vcgtq_f32(a, b)) != 0; }

PYCAT_SIMD Floats exponential(Floats d) {
  const Floats smallest = broadcast(-126.0F);  // the exponent of the smallest normal float32
  const Floats unbounded = d * broadcast(kLog2E);
  const Floats x = max(unbounded, smallest);
  const Floats whole = vrndmq_f32(x);
  const Floats f = x - whole;
  Floats y = multiply_add(f, broadcast(kSeries5), broadcast(kSeries4));
  y = multiply_add(f, y, broadcast(kSeries3));
  y = multiply_add(f, y, broadcast(kSeries2));
  y = multiply_add(f, y, broadcast(kSeries1));
  y = multiply_add(f, y, broadcast(1.0F));
  const Ints exponent = vshlq_n_s32(vcvtq_s32_f32(whole), 23);
  y = vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(y), exponent));
  y = select_greater(smallest, unbounded, broadcast(0.0F), y);
  return vbslq_f32(vceqq_f32(unbounded, unbounded), y, unbounded);  // NaN stays NaN
}

PYCAT_SIMD Ints load_ints(const std::uint32_t* at) { return vreinterpretq_s32_u32(vld1q_u32(at)); }
PYCAT_SIMD void store_ints(std::uint32_t* at, Ints a) { vst1q_u32(at, vreinterpretq_u32_s32(a)); }
PYCAT_SIMD Ints broadcast_int(std::uint32_t a) { return vreinterpretq_s32_u32(vdupq_n_u32(a)); }
PYCAT_SIMD Floats to_floats(Ints a) { return vcvtq_f32_s32(a); }
PYCAT_SIMD Ints round_to_ints(Floats a) { return vcvtnq_s32_f32(a); }
/// Products of words that are float32.
struct FloatDot {
  using Words = Floats;
  static PYCAT_SIMD Words load(const std::uint32_t* words) {
    return vreinterpretq_f32_u32(vld1q_u32(words));
  }
  static PYCAT_SIMD Words broadcast(std::uint32_t word) {
    return vreinterpretq_f32_u32(vdupq_n_u32(word));
  }
  static PYCAT_SIMD Floats add(Floats sum, Words a, Words b) { return vfmaq_f32(sum, a, b); }
};

}  // namespace
}  // namespace pycat
