#pragma once

// Bytes on processors that add only two of their products, to 16 bits. The source of each
// instruction set includes this file after it defines what simd/whole_numbers.h asks for, and
//   multiply_bytes(a, b)             products of unsigned bytes and signed bytes, added in pairs to
//                                    16-bit numbers, with saturation
//   multiply_pairs(a, b)             products of 16-bit numbers, added in pairs
//   add_shorts(a, b)                 sums of 16-bit numbers

#include "simd/whole_numbers.h"

namespace pycat {
namespace {

/// Bytes of seven bits. The products of two words then fit into 16 bits together, 2 * 2 * 127 * 63
/// = 32,004, so that nothing saturates, and one instruction widens both to 32 bits.
struct SevenBitDot {
  static constexpr std::uint32_t kTokenOffset = 64;
  static constexpr float kMaxMagnitude = 63.0F;

  template <int R, int C>
  static PYCAT_INLINE void accumulate(const std::uint32_t* rows, std::int64_t word_stride,
                                      const std::uint32_t* lanes, std::int64_t num_words,
                                      Ints (&sums)[R][C]) {
    constexpr std::int64_t kTokens = C * kLanes;
    const Ints ones = broadcast_int(0x00010001U);
    std::int64_t u = 0;
    for (; u + 2 <= num_words; u += 2) {
      Ints row[2][R];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        row[0][r] = broadcast_int(rows[r]);
        row[1][r] = broadcast_int(rows[word_stride + r]);
      }
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        const Ints first = load_ints(lanes + c * kLanes);
        const Ints second = load_ints(lanes + kTokens + c * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const Ints shorts =
              add_shorts(multiply_bytes(first, row[0][r]), multiply_bytes(second, row[1][r]));
          sums[r][c] = sums[r][c] + multiply_pairs(shorts, ones);
        }
      }
      rows += 2 * word_stride;
      lanes += 2 * kTokens;
    }
    if (u == num_words) return;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Ints row = broadcast_int(rows[r]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        const Ints shorts = multiply_bytes(load_ints(lanes + c * kLanes), row);
        sums[r][c] = sums[r][c] + multiply_pairs(shorts, ones);
      }
    }
  }
};

}  // namespace
}  // namespace pycat
