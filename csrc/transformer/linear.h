#pragma once

// Products of a linear layer, fused with their epilogue. The source of each instruction set
// includes this file after it defines what simd/tile_product.h asks for, the vector functions that
// cross_entropy/linear_loop.h lists, and a Format with
//   kElements                            features in a word
//   kHeaderWords, kActivatesToWords      as in PanelFormat
//   multiply<R, C>(tile, words, scales, row_words, sums)
//                                        sums[r][c] = bias + row r times lane group c
//   put<C>(out, row, c, even, odd)       writes lane group c of rows `row`, which is even, and
//                                        `row` + 1
//   to_words<C>, pack_row                as in PanelFormat

#include <cstdint>

#include "simd/tile_product.h"
#include "transformer/kernel.h"

namespace pycat {
namespace {

PYCAT_INLINE Floats relu(Floats x) { return max(broadcast(0.0F), x); }

PYCAT_INLINE Floats silu(Floats x) {
  const Floats bounded = max(broadcast(-80.0F), x);
  return x / (broadcast(1.0F) + exponential(broadcast(0.0F) - bounded));
}

/// x Phi(x), where Phi is computed by formula 7.1.26 of Abramowitz and Stegun (error 1.5e-7).
PYCAT_INLINE Floats gelu(Floats x) {
  const Floats magnitude = max(x, broadcast(0.0F) - x) * broadcast(0.70710678F);
  const Floats t =
      broadcast(1.0F) / multiply_add(magnitude, broadcast(0.3275911F), broadcast(1.0F));
  Floats series = multiply_add(t, broadcast(1.061405429F), broadcast(-1.453152027F));
  series = multiply_add(t, series, broadcast(1.421413741F));
  series = multiply_add(t, series, broadcast(-0.284496736F));
  series = multiply_add(t, series, broadcast(0.254829592F));
  const Floats tail = t * series * exponential(broadcast(0.0F) - magnitude * magnitude);
  const Floats half = broadcast(0.5F) * x;
  const Floats phi_twice = select_greater(broadcast(0.0F), x, tail, broadcast(2.0F) - tail);
  return half * phi_twice;
}

/// GELU with Phi(x) as (1 + tanh(u)) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3), which is
/// 1 / (1 + e^-2u).
PYCAT_INLINE Floats gelu_tanh(Floats x) {
  const Floats cubic = multiply_add(x * x, broadcast(0.044715F) * x, x);
  const Floats bounded = max(broadcast(-80.0F), broadcast(1.5957691F) * cubic);
  return x / (broadcast(1.0F) + exponential(broadcast(0.0F) - bounded));
}

template <Epilogue kEpilogue>
PYCAT_INLINE Floats activate(Floats x) {
  if (kEpilogue == Epilogue::kRelu) return relu(x);
  if (kEpilogue == Epilogue::kSilu || kEpilogue == Epilogue::kGatedSilu) return silu(x);
  if (kEpilogue == Epilogue::kGelu) return gelu(x);
  return gelu_tanh(x);
}

/// PanelFormat::multiply for one epilogue, R rows and C lane groups.
template <class Format, Epilogue kEpilogue, int R, int C>
void multiply_panel(const PanelProduct& product) {
  constexpr std::int64_t kTokens = C * kLanes;
  const std::uint32_t* tile = product.tiles;
  for (std::int64_t t = 0; t < product.num_tiles; ++t) {
    Floats sums[R][C];
    Format::template multiply<R, C>(tile, product.words, product.scales, product.row_words, sums);
    tile += R * (Format::kHeaderWords + product.row_words);
    const std::int64_t row = product.first_row + t * R;
    if (kEpilogue == Epilogue::kStore || kEpilogue == Epilogue::kAdd) {
      float* out = static_cast<float*>(product.out) + row * kTokens;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) {
          float* at = out + r * kTokens + c * kLanes;
          store(at, kEpilogue == Epilogue::kAdd ? load(at) + sums[r][c] : sums[r][c]);
        }
      }
    } else if (kEpilogue == Epilogue::kGatedSilu || kEpilogue == Epilogue::kGatedGeluTanh) {
      static_assert(R % 4 == 0, "gated rows are put in pairs");
#pragma GCC unroll 16
      for (int r = 0; r < R; r += 4) {
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) {
          Format::template put<C>(product.out, (row + r) / 2, c,
                                  activate<kEpilogue>(sums[r][c]) * sums[r + 1][c],
                                  activate<kEpilogue>(sums[r + 2][c]) * sums[r + 3][c]);
        }
      }
    } else {
      static_assert(R % 2 == 0, "rows are put in pairs");
#pragma GCC unroll 16
      for (int r = 0; r < R; r += 2) {
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) {
          Format::template put<C>(product.out, row + r, c, activate<kEpilogue>(sums[r][c]),
                                  activate<kEpilogue>(sums[r + 1][c]));
        }
      }
    }
  }
}

/// Writes `width` float32 rows, `row_stride` apart, with Format::put.
template <class Format, int C>
void put_rows(const float* rows, std::int64_t row_stride, std::int64_t width,
              std::uint32_t* words) {
  for (std::int64_t row = 0; row < width; row += 2) {
    const float* even = rows + row * row_stride;
    for (int c = 0; c < C; ++c) {
      Format::template put<C>(words, row, c, load(even + c * kLanes),
                              load(even + row_stride + c * kLanes));
    }
  }
}

/// Rows that are stored as float32.
struct Float32Rows {
  template <int C>
  static PYCAT_INLINE void put(void* out, std::int64_t row, int c, Floats even, Floats odd) {
    float* at = static_cast<float*>(out) + row * C * kLanes + c * kLanes;
    store(at, even);
    store(at + C * kLanes, odd);
  }
};

struct Float32Format : FloatTile<FloatDot>, Float32Rows {
  static constexpr std::int64_t kElements = 1;
  static constexpr bool kActivatesToWords = true;

  template <int C>
  static void to_words(const float* rows, std::int64_t row_stride, std::int64_t width,
                       std::uint32_t* words, float* /*scales*/) {
    put_rows<Float32Format, C>(rows, row_stride, width, words);
  }
  static void pack_row(const float* row, std::int64_t width, std::uint32_t* words, float* /*scale*/,
                       std::uint32_t* /*offset*/) {
    __builtin_memcpy(words, row, static_cast<unsigned long>(4 * width));
  }
};

template <class Format, int R, int C>
constexpr PanelFormat panel_format() {
  return {
      R,
      Format::kElements,
      Format::kHeaderWords,
      Format::kActivatesToWords,
      {multiply_panel<Format, Epilogue::kStore, R, C>, multiply_panel<Format, Epilogue::kAdd, R, C>,
       multiply_panel<Format, Epilogue::kRelu, R, C>, multiply_panel<Format, Epilogue::kSilu, R, C>,
       multiply_panel<Format, Epilogue::kGelu, R, C>,
       multiply_panel<Format, Epilogue::kGeluTanh, R, C>,
       multiply_panel<Format, Epilogue::kGatedSilu, R, C>,
       multiply_panel<Format, Epilogue::kGatedGeluTanh, R, C>},
      Format::template to_words<C>,
      Format::pack_row};
}

}  // namespace
}  // namespace pycat
