#pragma once

#include "simd/neon.h"
#include "simd/whole_numbers.h"

namespace pycat {
namespace {

/// Signed bytes on both sides: tokens need no offset.
struct SignedByteDot : FullBytes, WordByWord<SignedByteDot> {
  static constexpr std::uint32_t kTokenOffset = 0;
  static PYCAT_SIMD Ints add(Ints sum, Ints tokens, Ints rows) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(tokens), vreinterpretq_s8_s32(rows));
  }
};

}  // namespace
}  // namespace pycat
