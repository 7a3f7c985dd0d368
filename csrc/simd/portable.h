#pragma once

#include <cstdint>

#include "simd/exponential_series.h"

namespace pycat {
namespace {

#define PYCAT_SIMD __attribute__((always_inline)) inline

// GCC and Clang compile these types to the target's vectors: SSE2 on any x86-64, NEON on Arm.
using Floats = float __attribute__((vector_size(16)));
using Ints = std::int32_t __attribute__((vector_size(16)));
constexpr int kLanes = 4;

PYCAT_SIMD Floats load(const float* at) {
  Floats a;
  __builtin_memcpy(&a, at, sizeof(a));
  return a;
}
PYCAT_SIMD void store(float* at, Floats a) { __builtin_memcpy(at, &a, sizeof(a)); }
PYCAT_SIMD Floats broadcast(float a) { return Floats{a, a, a, a}; }
PYCAT_SIMD Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }
PYCAT_SIMD Floats max(Floats a, Floats b) { return a > b ? a : b; }
PYCAT_SIMD bool any_greater(Floats a, Floats b) {
  const Ints above = a > b;
  return (above[0] | above[1] | above[2] | above[3]) != 0;
}
PYCAT_SIMD Floats select_greater(Floats a, Floats b, Floats x, Floats y) { return a > b ? x : y; }

PYCAT_SIMD Floats exponential(Floats d) {
  const Floats smallest = broadcast(-126.0F);  // the exponent of the smallest normal float32
  const Floats unbounded = d * broadcast(kLog2E);
  // Converting NaN to an integer is undefined: it is replaced here and put back at the end.
  const Floats x = unbounded > smallest ? unbounded : smallest;
  const Ints towards_zero = __builtin_convertvector(x, Ints);
  const Ints whole = towards_zero + (__builtin_convertvector(towards_zero, Floats) > x);
  const Floats f = x - __builtin_convertvector(whole, Floats);
  Floats y = multiply_add(f, broadcast(kSeries5), broadcast(kSeries4));
  y = multiply_add(f, y, broadcast(kSeries3));
  y = multiply_add(f, y, broadcast(kSeries2));
  y = multiply_add(f, y, broadcast(kSeries1));
  y = multiply_add(f, y, broadcast(1.0F));
  const Ints power_bits = (whole + 127) << 23;
  Floats power;
  __builtin_memcpy(&power, &power_bits, sizeof(power));
  y = unbounded < smallest ? broadcast(0.0F) : y * power;
  return unbounded == unbounded ? y : unbounded;
}

/// Products of words that are float32.
struct FloatDot {
  using Words = Floats;
  static PYCAT_SIMD Words load(const std::uint32_t* words) {
    Words a;
    __builtin_memcpy(&a, words, sizeof(a));
    return a;
  }
  static PYCAT_SIMD Words broadcast(std::uint32_t word) {
    float a;
    __builtin_memcpy(&a, &word, sizeof(a));
    return Floats{a, a, a, a};
  }
  static PYCAT_SIMD Floats add(Floats sum, Words a, Words b) { return multiply_add(a, b, sum); }
};

}  // namespace
}  // namespace pycat
