#pragma once

// Bytes on processors that add only two of their products, to 16 bits. The source of each
// instruction set includes this file after it defines what simd/whole_numbers.h asks for, and
//   multiply_bytes(a, b)             products of unsigned bytes and signed bytes, added in pairs to
//                                    16-bit numbers, with saturation
//   multiply_pairs(a, b)             products of 16-bit numbers, added in pairs
//   add_shorts(a, b)                 sums of 16-bit numbers
//   pin(a)                           nothing, but the compiler must have `a` in a register there

#include "simd/whole_numbers.h"

namespace pycat {
namespace {

/// Bytes whose products are summed in 16 bits over kBlockWords words, before one instruction widens
/// the sums to 32 bits. Tokens have seven bits, 1 to 127 with their offset. The scale of a row is
/// such that no sum of a block saturates, whatever the tokens are: a row of few large numbers has
/// them up to 127, a row of equal ones up to 31.
struct SevenBitDot {
  static constexpr int kBlockWords = 4;
  static constexpr std::uint32_t kTokenOffset = 64;
  static constexpr float kMaxMagnitude = 63.0F;

  /// A 16-bit sum has the products of two features of each word of a block.
  static float max_row_magnitude(const float* row, std::int64_t width, float max_abs) {
    constexpr std::int64_t kBlock = 4 * kBlockWords;
    float max_sum = 0.0F;
    for (std::int64_t first = 0; first < width; first += kBlock) {
      const std::int64_t end = first + kBlock < width ? first + kBlock : width;
      float above[4] = {};  // sums of positive weights of each place of a word
      float below[4] = {};
      for (std::int64_t i = first; i < end; i += 4) {
        for (std::int64_t j = 0; j < 4; ++j) {
          above[j] += row[i + j] > 0.0F ? row[i + j] : 0.0F;
          below[j] += row[i + j] < 0.0F ? -row[i + j] : 0.0F;
        }
      }
      const float sums[4] = {above[0] + above[1], above[2] + above[3], below[0] + below[1],
                             below[2] + below[3]};
      for (const float sum : sums) max_sum = sum > max_sum ? sum : max_sum;
    }
    // Of at most 2 kBlockWords numbers, each rounded up by half at most.
    constexpr float kMaxSum = 32767.0F / 127.0F - 0.01F - kBlockWords;
    const float limit = kMaxSum * (max_abs / max_sum);
    return limit < 127.0F ? limit : 127.0F;
  }

  template <int R, int C>
  static PYCAT_INLINE void accumulate(const std::uint32_t* rows, std::int64_t word_stride,
                                      const std::uint32_t* lanes, std::int64_t num_words,
                                      Ints (&sums)[R][C]) {
    accumulate_rows<0>(rows, word_stride, lanes, num_words, sums);
  }

 private:
  // Rows whose sums of 16 and of 32 bits stay in registers together.
  static constexpr int kRows = kLanes == 16 ? 4 : 2;

  /// Rows from kFirst on, some at a time.
  template <int kFirst, int R, int C>
  static PYCAT_INLINE void accumulate_rows(const std::uint32_t* first_rows,
                                           std::int64_t word_stride,
                                           const std::uint32_t* first_lanes, std::int64_t num_words,
                                           Ints (&sums)[R][C]) {
    const std::uint32_t* rows = first_rows;
    const std::uint32_t* lanes = first_lanes;
    for (std::int64_t u = 0; u < num_words / kBlockWords; ++u) {
      add_block<kFirst, kBlockWords>(rows, word_stride, lanes, sums);
      rows += kBlockWords * word_stride;
      lanes += kBlockWords * C * kLanes;
    }
    for (std::int64_t u = 0; u < num_words % kBlockWords; ++u) {
      add_block<kFirst, 1>(rows, word_stride, lanes, sums);
      rows += word_stride;
      lanes += C * kLanes;
    }
    if constexpr (kFirst + kRows < R) {
      accumulate_rows<kFirst + kRows>(first_rows, word_stride, first_lanes, num_words, sums);
    }
  }

  /// Adds kNumWords words of some rows, which are summed in 16 bits.
  template <int kFirst, int kNumWords, int R, int C>
  static PYCAT_INLINE void add_block(const std::uint32_t* rows, std::int64_t word_stride,
                                     const std::uint32_t* lanes, Ints (&sums)[R][C]) {
    static_assert(R % kRows == 0, "a tile has whole groups of rows");
    const Ints ones = broadcast_int(0x00010001U);
    Ints shorts[kRows][C];
#pragma GCC unroll 8
    for (int u = 0; u < kNumWords; ++u) {
      Ints columns[C];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        columns[c] = load_ints(lanes + (u * C + c) * kLanes);
        pin(columns[c]);  // GCC would load it again for each row
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Ints row = broadcast_int(rows[u * word_stride + kFirst + r]);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) {
          const Ints products = multiply_bytes(columns[c], row);
          shorts[r][c] = u == 0 ? products : add_shorts(shorts[r][c], products);
          pin(shorts[r][c]);  // GCC would add a block's products as a tree, all in memory till then
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        sums[kFirst + r][c] = sums[kFirst + r][c] + multiply_pairs(shorts[r][c], ones);
      }
    }
  }
};

}  // namespace
}  // namespace pycat
