#pragma once

#include "simd/avx2.h"
#include "simd/whole_numbers.h"

// AVX-512 has the same instructions on the same registers in another encoding. With an empty prefix
// a processor with AVX-512 VNNI can test what is compiled here for one without.
#ifndef PYCAT_VEX
#define PYCAT_VEX "%{vex%} "
#endif

namespace pycat {
namespace {

struct VnniByteDot : UnsignedTokens, WordByWord<VnniByteDot> {
  static PYCAT_SIMD Ints add(Ints sum, Ints tokens, Ints rows) {
    asm(PYCAT_VEX "vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(tokens), "x"(rows));
    return sum;
  }
};

}  // namespace
}  // namespace pycat
