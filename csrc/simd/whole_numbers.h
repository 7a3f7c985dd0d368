#pragma once

// Linear layers of whole numbers: rows and tokens have a scale each, which maps the largest
// magnitude to the largest number of the format. Sums of products are exact in 32 bits and become
// float32 in their registers. The source of each instruction set includes this file after it
// defines what simd/tile_product.h and cross_entropy/linear_loop.h ask for, and
//   Ints                             a vector of kLanes 32-bit numbers, with + | <<
//   load_ints, store_ints            as load and store, from and to words
//   broadcast_int(word)              the same number in every lane
//   to_floats(Ints)                  the same numbers
//   round_to_ints(Floats)            the nearest whole numbers
//
// A word holds four bytes, the first in its lowest bits. How words are multiplied is said by a Dot:
//   kTokenOffset                     added to a token's numbers where these are unsigned
//   kMaxMagnitude                    of a token's numbers
//   max_row_magnitude(row, width, max_abs)
//                                    of the numbers of a row, whose largest magnitude is max_abs
//   accumulate(rows, word_stride, lanes, num_words, sums)
//                                    adds the products of rows that lie side by side

#include <cstdint>

#include "simd/tile_product.h"

namespace pycat {
namespace {

/// Sums of each word's products by Dot::add().
template <class Dot>
struct WordByWord {
  using Words = Ints;
  static PYCAT_SIMD Words load(const std::uint32_t* words) { return load_ints(words); }
  static PYCAT_SIMD Words broadcast(std::uint32_t word) { return broadcast_int(word); }
  template <int R, int C>
  static PYCAT_INLINE void accumulate(const std::uint32_t* rows, std::int64_t word_stride,
                                      const std::uint32_t* lanes, std::int64_t num_words,
                                      Ints (&sums)[R][C]) {
    add_products<Dot>(rows, 1, word_stride, lanes, C * kLanes, num_words, sums);
  }
};

/// Bytes whose products are summed in 32 bits: no row needs smaller ones.
struct FullBytes {
  static constexpr float kMaxMagnitude = 127.0F;
  static float max_row_magnitude(const float* /*row*/, std::int64_t /*width*/, float /*max_abs*/) {
    return kMaxMagnitude;
  }
};

/// Bytes that are signed in rows and unsigned in tokens.
struct UnsignedTokens : FullBytes {
  static constexpr std::uint32_t kTokenOffset = 128;
};

/// A format of whole numbers, as transformer/linear.h asks for it.
template <class Dot>
struct WholeNumbers {
  static constexpr std::int64_t kHeaderWords = 3;
  static constexpr std::int64_t kElements = 4;

  template <int R, int C>
  static PYCAT_INLINE void multiply(const std::uint32_t* tile, const std::uint32_t* words,
                                    const float* scales, std::int64_t row_words,
                                    Floats (&sums)[R][C]) {
    Ints int_sums[R][C];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) int_sums[r][c] = broadcast_int(tile[2 * R + r]);
    }
    Dot::accumulate(tile + 3 * R, R, words, row_words, int_sums);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Floats bias = broadcast(float_of(tile[r]));
      const Floats scale = broadcast(float_of(tile[R + r]));
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        const Floats scaled = to_floats(int_sums[r][c]) * scale;
        sums[r][c] = multiply_add(scaled, load(scales + c * kLanes), bias);
      }
    }
  }

  template <int C>
  static void to_words(const float* rows, std::int64_t row_stride, std::int64_t width,
                       std::uint32_t* words, float* scales) {
    Floats inverse[C];
    for (int c = 0; c < C; ++c) {
      Floats max_abs = broadcast(1e-30F);
      Floats nan_or_zero = broadcast(0.0F);  // NaN if a feature is: whole numbers have no NaN
      for (std::int64_t row = 0; row < width; ++row) {
        const Floats x = load(rows + row * row_stride + c * kLanes);
        max_abs = max(max_abs, max(x, broadcast(0.0F) - x));
        nan_or_zero = multiply_add(x, broadcast(0.0F), nan_or_zero);
      }
      store(scales + c * kLanes,
            multiply_add(max_abs, broadcast(1.0F / Dot::kMaxMagnitude), nan_or_zero));
      inverse[c] = broadcast(Dot::kMaxMagnitude) / max_abs;
    }
    for (std::int64_t row = 0; row < width; row += kElements) {
      for (int c = 0; c < C; ++c) {
        Ints word = broadcast_int(0);
#pragma GCC unroll 4
        for (int i = 0; i < kElements; ++i) {
          const Floats x = load(rows + (row + i) * row_stride + c * kLanes) * inverse[c];
          const Ints number = round_to_ints(x) + broadcast_int(Dot::kTokenOffset);
          word = word | (number & broadcast_int(0xFFU)) << (8 * i);
        }
        store_ints(words + (row / kElements * C + c) * kLanes, word);
      }
    }
  }

  /// PanelFormat::pack_row.
  static void pack_row(const float* row, std::int64_t width, std::uint32_t* words, float* scale,
                       std::uint32_t* offset) {
    // Magnitudes are compared as bits, and numbers rounded by the addition of 1.5 2^23, which
    // leaves them in the last bits: compilers turn these loops into vector instructions.
    std::uint32_t max_abs_bits = bits_of(1e-30F);
    for (std::int64_t i = 0; i < width; ++i) {
      const std::uint32_t magnitude = bits_of(row[i]) & 0x7FFFFFFFU;
      max_abs_bits = magnitude > max_abs_bits ? magnitude : max_abs_bits;
    }
    const float max_abs = float_of(max_abs_bits);
    const float largest = Dot::max_row_magnitude(row, width, max_abs);
    const float inverse = largest / max_abs;
    constexpr float kRound = 12582912.0F;
    std::uint32_t sum = 0;
    auto* numbers = reinterpret_cast<std::int8_t*>(words);  // lie as the bytes of a word do
    for (std::int64_t i = 0; i < width; ++i) {
      const std::uint32_t number = bits_of(row[i] * inverse + kRound) - bits_of(kRound);
      numbers[i] = static_cast<std::int8_t>(number);
      sum += number;
    }
    *scale = max_abs / largest;
    *offset = 0U - Dot::kTokenOffset * sum;
  }

 private:
  static PYCAT_SIMD float float_of(std::uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
  }
  static PYCAT_SIMD std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    return bits;
  }
};

}  // namespace
}  // namespace pycat
