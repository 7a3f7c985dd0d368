#pragma once

// Products of rows and lanes, a register tile at a time. The source of each instruction set
// includes this file after it defines
//   Floats                           a vector of kLanes float32, with + - *
//   broadcast(float)                 the same number in every lane
//   Dot::Words                       a vector of kLanes 32-bit words
//   Dot::load(words)                 kLanes words from memory
//   Dot::broadcast(word)             the same word in every lane
//   Dot::add(sum, a, b)              sum + a * b in every lane

#include <cstdint>

namespace pycat {
namespace {

#define PYCAT_INLINE __attribute__((always_inline)) inline

/// sums[r][c] += row r times lane group c, over `num_words` words: word u of row r is
/// rows[r * row_stride + u * word_stride], and word u of the lanes begins at
/// lanes[u * lane_stride].
template <class Dot, int R, int C, class Sum>
PYCAT_INLINE void add_products(const std::uint32_t* rows, std::int64_t row_stride,
                               std::int64_t word_stride, const std::uint32_t* lanes,
                               std::int64_t lane_stride, std::int64_t num_words,
                               Sum (&sums)[R][C]) {
  for (std::int64_t u = 0; u < num_words; ++u) {
    typename Dot::Words columns[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) columns[c] = Dot::load(lanes + c * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename Dot::Words row = Dot::broadcast(rows[r * row_stride]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sums[r][c] = Dot::add(sums[r][c], columns[c], row);
    }
    rows += word_stride;
    lanes += lane_stride;
  }
}

/// Tiles whose products are sums of float32: a header of biases, then the rows' words.
template <class Dot>
struct FloatTile {
  static constexpr std::int64_t kHeaderWords = 1;

  /// sums[r][c] = bias of row r + row r of the tile times lane group c of the panel. The sums stay
  /// in registers as long as the caller unrolls its loops over them too.
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
    add_products<Dot>(tile + R, 1, R, words, C * kLanes, row_words, sums);
  }
};

}  // namespace
}  // namespace pycat
