#pragma once

#include "simd/avx2.h"
#include "simd/whole_numbers.h"

namespace pycat {
namespace {

/// ShortDot for 16 registers. 12 sums, 3 columns, a row and a product would be 17, and a sum that
/// waits in memory for its next addition cost a third of the rate. So the last column is read from
/// memory by its product.
struct Avx2ShortDot : ShortWords {
  template <int R, int C>
  static PYCAT_INLINE void accumulate(const std::uint32_t* rows, std::int64_t word_stride,
                                      const std::uint32_t* lanes, std::int64_t num_words,
                                      Ints (&sums)[R][C]) {
    for (std::int64_t u = 0; u < num_words; ++u) {
      Ints columns[C - 1];
#pragma GCC unroll 8
      for (int c = 0; c < C - 1; ++c) columns[c] = load_ints(lanes + c * kLanes);
      const auto* last_column = (const __m256i_u*)(lanes + (C - 1) * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Ints row = broadcast_int(rows[r]);
#pragma GCC unroll 8
        for (int c = 0; c < C - 1; ++c) sums[r][c] = sums[r][c] + multiply_pairs(row, columns[c]);
        // With the intrinsic, GCC would keep the column in a register.
        Ints product;
        asm("vpmaddwd %2, %1, %0" : "=x"(product) : "x"(row), "m"(*last_column));
        sums[r][C - 1] = sums[r][C - 1] + product;
      }
      rows += word_stride;
      lanes += C * kLanes;
    }
  }
};

}  // namespace
}  // namespace pycat
