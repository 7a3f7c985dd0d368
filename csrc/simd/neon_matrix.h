#pragma once

// Matrix products by Armv8.6's instructions bfmmla and smmla. One instruction multiplies two rows
// of the weights by two tokens, and sums over two 32-bit words of each. So words 2 u and 2 u + 1 of
// two tokens must lie side by side, [t0 w0, t0 w1, t1 w0, t1 w1]; pair_words() orders a panel so.

#include "simd/neon_dot.h"

namespace pycat {
namespace {

/// Lays out the words of a panel in pairs. The last of an odd number stays as it is.
template <int C>
void pair_words(std::uint32_t* words, std::int64_t num_words) {
  for (std::int64_t u = 0; u + 2 <= num_words; u += 2) {
    Ints first[C];
    Ints second[C];
    for (int c = 0; c < C; ++c) {
      first[c] = load_ints(words + c * kLanes);
      second[c] = load_ints(words + (C + c) * kLanes);
    }
    for (int c = 0; c < C; ++c) {
      store_ints(words + 2 * c * kLanes, vzip1q_s32(first[c], second[c]));
      store_ints(words + (2 * c + 1) * kLanes, vzip2q_s32(first[c], second[c]));
    }
    words += 2 * C * kLanes;
  }
}

/// A product of two rows and two tokens: [r0 t0, r0 t1, r1 t0, r1 t1] is added to `sums`.
struct ByteMatrix {
  static PYCAT_SIMD Ints zero() { return vdupq_n_s32(0); }
  static PYCAT_SIMD Ints multiply(Ints sums, Ints rows, Ints tokens) {
    return vmmlaq_s32(sums, vreinterpretq_s8_s32(rows), vreinterpretq_s8_s32(tokens));
  }
  /// Two tokens of `a` and two of `b`, of the first row and of the second.
  static PYCAT_SIMD Ints first_row(Ints a, Ints b) {
    return vcombine_s32(vget_low_s32(a), vget_low_s32(b));
  }
  static PYCAT_SIMD Ints second_row(Ints a, Ints b) {
    return vcombine_s32(vget_high_s32(a), vget_high_s32(b));
  }
};

/// The same of pairs of bfloat16.
struct BFloat16Matrix {
  static PYCAT_SIMD Floats zero() { return vdupq_n_f32(0.0F); }
  static PYCAT_SIMD Floats multiply(Floats sums, Ints rows, Ints tokens) {
    return vbfmmlaq_f32(sums, vreinterpretq_bf16_s32(rows), vreinterpretq_bf16_s32(tokens));
  }
  static PYCAT_SIMD Floats first_row(Floats a, Floats b) {
    return vcombine_f32(vget_low_f32(a), vget_low_f32(b));
  }
  static PYCAT_SIMD Floats second_row(Floats a, Floats b) {
    return vcombine_f32(vget_high_f32(a), vget_high_f32(b));
  }
};

/// sums[r][c] += row r times lane group c, over `num_pairs` pairs of words.
template <class Matrix, int R, int C, class Sum>
PYCAT_INLINE void add_word_pairs(const std::uint32_t* rows, std::int64_t word_stride,
                                 const std::uint32_t* lanes, std::int64_t num_pairs,
                                 Sum (&sums)[R][C]) {
  static_assert(R % 4 == 0, "four rows are loaded at a time");
  Sum products[R / 2][2 * C];
#pragma GCC unroll 8
  for (int r = 0; r < R / 2; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < 2 * C; ++p) products[r][p] = Matrix::zero();
  }
  for (std::int64_t u = 0; u < num_pairs; ++u) {
    Ints row_pairs[R / 2];
#pragma GCC unroll 4
    for (int r = 0; r < R; r += 4) {
      const Ints first = load_ints(rows + r);
      const Ints second = load_ints(rows + word_stride + r);
      row_pairs[r / 2] = vzip1q_s32(first, second);
      row_pairs[r / 2 + 1] = vzip2q_s32(first, second);
    }
#pragma GCC unroll 8
    for (int p = 0; p < 2 * C; ++p) {
      const Ints tokens = load_ints(lanes + p * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R / 2; ++r) {
        products[r][p] = Matrix::multiply(products[r][p], row_pairs[r], tokens);
      }
    }
    rows += 2 * word_stride;
    lanes += 2 * C * kLanes;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R / 2; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const Sum a = products[r][2 * c];
      const Sum b = products[r][2 * c + 1];
      sums[2 * r][c] = sums[2 * r][c] + Matrix::first_row(a, b);
      sums[2 * r + 1][c] = sums[2 * r + 1][c] + Matrix::second_row(a, b);
    }
  }
}

/// Signed bytes of panels in pairs of words.
struct SignedBytePairs : FullBytes {
  static constexpr std::uint32_t kTokenOffset = 0;

  template <int R, int C>
  static PYCAT_INLINE void accumulate(const std::uint32_t* rows, std::int64_t word_stride,
                                      const std::uint32_t* lanes, std::int64_t num_words,
                                      Ints (&sums)[R][C]) {
    add_word_pairs<ByteMatrix>(rows, word_stride, lanes, num_words / 2, sums);
    const std::int64_t paired = num_words / 2 * 2;
    add_products<SignedByteDot>(rows + paired * word_stride, 1, word_stride,
                                lanes + paired * C * kLanes, C * kLanes, num_words % 2, sums);
  }
};

/// Tiles of pairs of bfloat16, for panels in pairs of words. Rows have an even number of words: the
/// widths of all layers are multiples of 4.
struct BFloat16PairTile {
  static constexpr std::int64_t kHeaderWords = 1;

  template <int R, int C>
  static PYCAT_INLINE void multiply(const std::uint32_t* tile, const std::uint32_t* words,
                                    const float* /*scales*/, std::int64_t row_words,
                                    Floats (&sums)[R][C]) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      float bias;
      __builtin_memcpy(&bias, tile + r, sizeof(bias));
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sums[r][c] = broadcast(bias);
    }
    add_word_pairs<BFloat16Matrix>(tile + R, R, words, row_words / 2, sums);
  }
};

}  // namespace
}  // namespace pycat
