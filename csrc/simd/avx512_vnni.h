#pragma once

#include "simd/avx512.h"
#include "simd/whole_numbers.h"

namespace pycat {
namespace {

// With the intrinsics, GCC 12 copies every sum before it adds, half of them to memory.
struct VnniByteDot : UnsignedTokens, WordByWord<VnniByteDot> {
  static PYCAT_SIMD Ints add(Ints sum, Ints tokens, Ints rows) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(tokens), "v"(rows));
    return sum;
  }
};

}  // namespace
}  // namespace pycat
