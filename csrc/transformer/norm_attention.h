#pragma once

// Norms and attention on float32 panels. Included as transformer_product.h is.
//
// Attention of a sentence has its queries in the lanes, so that the softmax goes down the lanes and
// nothing is ever summed across them; keys and values are broadcast from where they lie.

#include <cstdint>

#include "simd/tile_product.h"
#include "transformer/kernel.h"

namespace pycat {
namespace {

template <int C>
void normalize(const float* x, const float* weight, const float* bias, std::int64_t width,
               float epsilon, float* out) {
  constexpr std::int64_t kTokens = C * kLanes;
  const Floats share = broadcast(1.0F / static_cast<float>(width));
  Floats mean[C];
  Floats scale[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    // Four chains: additions would wait for each other.
    Floats sums[4] = {broadcast(0.0F), broadcast(0.0F), broadcast(0.0F), broadcast(0.0F)};
    for (std::int64_t f = 0; f < width; ++f) {
      sums[f % 4] = sums[f % 4] + load(x + f * kTokens + c * kLanes);
    }
    mean[c] = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * share;
    Floats squares[4] = {broadcast(0.0F), broadcast(0.0F), broadcast(0.0F), broadcast(0.0F)};
    for (std::int64_t f = 0; f < width; ++f) {
      const Floats d = load(x + f * kTokens + c * kLanes) - mean[c];
      squares[f % 4] = multiply_add(d, d, squares[f % 4]);
    }
    const Floats variance = ((squares[0] + squares[1]) + (squares[2] + squares[3])) * share;
    float lanes[kLanes];
    store(lanes, variance + broadcast(epsilon));
    for (float& lane : lanes) lane = 1.0F / __builtin_sqrtf(lane);
    scale[c] = load(lanes);
  }
  for (std::int64_t f = 0; f < width; ++f) {
    const Floats w = broadcast(weight[f]);
    const Floats b = broadcast(bias[f]);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const Floats d = load(x + f * kTokens + c * kLanes) - mean[c];
      store(out + f * kTokens + c * kLanes, multiply_add(d * scale[c], w, b));
    }
  }
}

/// Tokens [first, first + count) of `width` rows, side by side: token i of row f at
/// out[f * out_stride + i]. Writes up to kLanes - 1 floats more than `count` of a row.
template <int C>
void gather_tokens(const PanelRows& from, std::int64_t first, std::int64_t count,
                   std::int64_t width, float* out, std::int64_t out_stride) {
  constexpr std::int64_t kTokens = C * kLanes;
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t lane = (first + done) % kTokens;
    const std::int64_t some = count - done < kTokens - lane ? count - done : kTokens - lane;
    const float* panel =
        from.panels + (first + done) / kTokens * from.panel_size + from.first_row * kTokens + lane;
    for (std::int64_t f = 0; f < width; ++f) {
      for (std::int64_t i = 0; i < some; i += kLanes) {
        store(out + f * out_stride + done + i, load(panel + f * kTokens + i));
      }
    }
    done += some;
  }
}

/// What gather_tokens took, back into rows that are kTokens + kLanes apart. In the order of tokens:
/// what is written beyond `count` comes before the next token's.
template <int C>
void scatter_tokens(const float* rows, std::int64_t stride, std::int64_t first, std::int64_t count,
                    std::int64_t width, std::int64_t first_row, float* panels,
                    std::int64_t panel_size) {
  constexpr std::int64_t kTokens = C * kLanes;
  constexpr std::int64_t kRow = kTokens + kLanes;
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t lane = (first + done) % kTokens;
    const std::int64_t some = count - done < kTokens - lane ? count - done : kTokens - lane;
    float* panel = panels + (first + done) / kTokens * panel_size + first_row * kRow + lane;
    for (std::int64_t f = 0; f < width; ++f) {
      for (std::int64_t i = 0; i < some; i += kLanes) {
        store(panel + f * kRow + i, load(rows + f * stride + done + i));
      }
    }
    done += some;
  }
}

PYCAT_INLINE const std::uint32_t* words(const float* floats) {
  return reinterpret_cast<const std::uint32_t*>(floats);
}

/// C lane groups of queries against the first `num_keys` keys; `first_query` is the place of lane 0
/// in a causal sentence. `weights` holds C * kLanes floats a key.
template <int C>
void attend_block(const float* queries, std::int64_t query_stride, const float* keys,
                  const float* values, std::int64_t key_stride, std::int64_t num_keys,
                  std::int64_t width, float scale, bool causal, std::int64_t first_query,
                  float* weights, float* out) {
  constexpr int kKeys = 8;
  constexpr int kRows = 8;
  Floats top[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) top[c] = broadcast(-__builtin_inff());
  float counted[C * kLanes];
  for (int i = 0; i < C * kLanes; ++i) counted[i] = static_cast<float>(first_query + i);
  for (std::int64_t j = 0; j < num_keys; j += kKeys) {
    Floats sums[kKeys][C];
#pragma GCC unroll 16
    for (int r = 0; r < kKeys; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sums[r][c] = broadcast(0.0F);
    }
    add_products<FloatDot>(words(keys + j), 1, key_stride, words(queries), query_stride, width,
                           sums);
    const bool masked = causal && j + kKeys - 1 > first_query;
#pragma GCC unroll 16
    for (int r = 0; r < kKeys; ++r) {
      if (j + r >= num_keys) break;
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        Floats score = sums[r][c] * broadcast(scale);
        if (masked) {
          score = select_greater(broadcast(static_cast<float>(j + r)), load(counted + c * kLanes),
                                 broadcast(-__builtin_inff()), score);
        }
        top[c] = max(top[c], score);
        store(weights + ((j + r) * C + c) * kLanes, score);
      }
    }
  }
  Floats total[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) total[c] = broadcast(0.0F);
  for (std::int64_t j = 0; j < num_keys; ++j) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      float* at = weights + (j * C + c) * kLanes;
      const Floats e = exponential(load(at) - top[c]);
      total[c] = total[c] + e;
      store(at, e);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) total[c] = broadcast(1.0F) / total[c];
  for (std::int64_t f = 0; f < width; f += kRows) {
    Floats sums[kRows][C];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sums[r][c] = broadcast(0.0F);
    }
    add_products<FloatDot>(words(values + f * key_stride), key_stride, 1, words(weights),
                           C * kLanes, num_keys, sums);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        store(out + (f + r) * query_stride + c * kLanes, sums[r][c] * total[c]);
      }
    }
  }
}

template <int C>
void attend(const AttentionHead& head) {
  constexpr std::int64_t kBlock = 2 * kLanes;
  const auto strided = [](std::int64_t count) { return (count + kBlock - 1) / kBlock * kBlock; };
  const std::int64_t query_stride = strided(head.num_queries + kLanes);
  const std::int64_t key_stride = strided(head.num_keys + kLanes);
  float* queries = head.scratch;
  float* keys = queries + head.width * query_stride;
  float* values = keys + head.width * key_stride;
  float* weights = values + head.width * key_stride;
  gather_tokens<C>(head.queries, head.first_query, head.num_queries, head.width, queries,
                   query_stride);
  gather_tokens<C>(head.keys, head.first_key, head.num_keys, head.width, keys, key_stride);
  gather_tokens<C>(head.values, head.first_key, head.num_keys, head.width, values, key_stride);
  // Each block's result takes the place of its queries.
  for (std::int64_t i = 0; i < head.num_queries;) {
    const std::int64_t left = head.num_queries - i;
    const std::int64_t size = left > kLanes ? kBlock : kLanes;
    const std::int64_t most = i + (left < size ? left : size);
    const std::int64_t num_keys = head.causal ? most : head.num_keys;
    (left > kLanes ? attend_block<2>
                   : attend_block<1>)(queries + i, query_stride, keys, values, key_stride, num_keys,
                                      head.width, head.scale, head.causal, i, weights, queries + i);
    i += size;
  }
  scatter_tokens<C>(queries, query_stride, head.first_query, head.num_queries, head.width,
                    head.out_row, head.out, head.out_panel_size);
}

}  // namespace
}  // namespace pycat
