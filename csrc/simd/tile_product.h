#pragma once

// Products of rows and lanes, a register tile at a time. Included by the sources of one instruction
// set each, after they define
//   Floats                    a vector of kLanes float32, with + - *
//   spread(float)             in every lane
//   Dot::Unit                 a vector of kLanes 32-bit units
//   Dot::load(units), Dot::spread(unit), Dot::add(sum, a, b): sum + a * b in every lane

#include <cstdint>

namespace pycat {
namespace {

#define PYCAT_INLINE __attribute__((always_inline)) inline

/// sums[r][c] += row r times lane group c, over `num_units`: unit u of row r at
/// rows[r * row_stride + u * unit_stride], of the lanes at lanes[u * lane_stride].
template <class Dot, int R, int C, class Sum>
PYCAT_INLINE void add_products(const std::uint32_t* rows, std::int64_t row_stride,
                               std::int64_t unit_stride, const std::uint32_t* lanes,
                               std::int64_t lane_stride, std::int64_t num_units,
                               Sum (&sums)[R][C]) {
  for (std::int64_t u = 0; u < num_units; ++u) {
    typename Dot::Unit columns[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) columns[c] = Dot::load(lanes + c * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename Dot::Unit row = Dot::spread(rows[r * row_stride]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sums[r][c] = Dot::add(sums[r][c], columns[c], row);
    }
    rows += unit_stride;
    lanes += lane_stride;
  }
}

/// sums[r][c] = bias of row r + row r of the tile times token group c of the panel. What follows is
/// up to the caller: the sums are in registers as long as it unrolls its loops over them too.
template <class Dot, int R, int C>
PYCAT_INLINE void multiply_tile(const std::uint32_t* tile, const std::uint32_t* panel,
                                std::int64_t num_units, Floats (&sums)[R][C]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float bias;
    __builtin_memcpy(&bias, tile + r, sizeof(bias));
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sums[r][c] = spread(bias);
  }
  add_products<Dot>(tile + R, 1, R, panel, C * kLanes, num_units, sums);
}

}  // namespace
}  // namespace pycat
