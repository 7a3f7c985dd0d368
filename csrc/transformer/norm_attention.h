#pragma once

// Norms and attention on float32 panels. The source of each instruction set includes this file
// after it defines what transformer/linear.h asks for, except a Format.
//
// In attention the lanes are a sentence's queries, so that no sum goes across lanes: the softmax
// runs over keys one after the other. Keys and values are broadcast from memory.

#include <cstdint>

#include "simd/soft_cap.h"
#include "simd/tile_product.h"
#include "transformer/kernel.h"

namespace pycat {
namespace {

/// PanelMath::normalize for panels of C lane groups.
template <int C>
void normalize(const float* x, const float* weight, const float* bias, std::int64_t width,
               float epsilon, float* out) {
  constexpr std::int64_t kTokens = C * kLanes;
  const Floats inverse_width = broadcast(1.0F / static_cast<float>(width));
  Floats mean[C];
  Floats scale[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    mean[c] = broadcast(0.0F);
    if (bias != nullptr) {
      // Four chains of additions: in one, each addition would wait for the one before.
      Floats sums[4] = {broadcast(0.0F), broadcast(0.0F), broadcast(0.0F), broadcast(0.0F)};
      for (std::int64_t f = 0; f < width; ++f) {
        sums[f % 4] = sums[f % 4] + load(x + f * kTokens + c * kLanes);
      }
      mean[c] = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * inverse_width;
    }
    Floats squares[4] = {broadcast(0.0F), broadcast(0.0F), broadcast(0.0F), broadcast(0.0F)};
    for (std::int64_t f = 0; f < width; ++f) {
      const Floats d = load(x + f * kTokens + c * kLanes) - mean[c];
      squares[f % 4] = multiply_add(d, d, squares[f % 4]);
    }
    const Floats variance = ((squares[0] + squares[1]) + (squares[2] + squares[3])) * inverse_width;
    float lanes[kLanes];
    store(lanes, variance + broadcast(epsilon));
    for (float& lane : lanes) lane = 1.0F / __builtin_sqrtf(lane);
    scale[c] = load(lanes);
  }
  for (std::int64_t f = 0; f < width; ++f) {
    const Floats w = broadcast(weight[f]);
    const Floats b = broadcast(bias == nullptr ? 0.0F : bias[f]);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const Floats d = load(x + f * kTokens + c * kLanes) - mean[c];
      store(out + f * kTokens + c * kLanes, multiply_add(d * scale[c], w, b));
    }
  }
}

/// PanelMath::rotate for panels of C lane groups.
template <int C>
void rotate(float* rows, const float* table, std::int64_t half) {
  const std::int64_t apart = half * C * kLanes;
  for (std::int64_t i = 0; i < apart; i += kLanes) {
    const Floats a = load(rows + i);
    const Floats b = load(rows + apart + i);
    const Floats cosine = load(table + i);
    const Floats sine = load(table + apart + i);
    store(rows + i, a * cosine - b * sine);
    store(rows + apart + i, b * cosine + a * sine);
  }
}

/// Copies tokens [first, first + count) of `width` rows from panels: token i of row f goes to
/// out[f * out_stride + i]. Up to kLanes - 1 floats behind the last token of a row are written too.
template <int C>
void gather_tokens(const PanelRows& from, std::int64_t first, std::int64_t count,
                   std::int64_t width, float* out, std::int64_t out_stride) {
  constexpr std::int64_t kTokens = C * kLanes;
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t lane = (first + done) % kTokens;
    const std::int64_t in_panel = count - done < kTokens - lane ? count - done : kTokens - lane;
    const float* panel = from.panels + (first + done) / kTokens * from.panel_floats +
                         from.first_row * kTokens + lane;
    for (std::int64_t f = 0; f < width; ++f) {
      for (std::int64_t i = 0; i < in_panel; i += kLanes) {
        store(out + f * out_stride + done + i, load(panel + f * kTokens + i));
      }
    }
    done += in_panel;
  }
}

/// Copies tokens as gather_tokens() left them into panels whose rows are kTokens + kLanes apart. Up
/// to kLanes - 1 floats behind the last token of a row are written too: sentences must be copied in
/// their order, so that the next one overwrites these.
template <int C>
void scatter_tokens(const float* rows, std::int64_t stride, std::int64_t first, std::int64_t count,
                    std::int64_t width, std::int64_t first_row, float* panels,
                    std::int64_t panel_floats) {
  constexpr std::int64_t kTokens = C * kLanes;
  constexpr std::int64_t kRow = kTokens + kLanes;
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t lane = (first + done) % kTokens;
    const std::int64_t in_panel = count - done < kTokens - lane ? count - done : kTokens - lane;
    float* panel = panels + (first + done) / kTokens * panel_floats + first_row * kRow + lane;
    for (std::int64_t f = 0; f < width; ++f) {
      for (std::int64_t i = 0; i < in_panel; i += kLanes) {
        store(panel + f * kRow + i, load(rows + f * stride + done + i));
      }
    }
    done += in_panel;
  }
}

PYCAT_INLINE const std::uint32_t* words(const float* floats) {
  return reinterpret_cast<const std::uint32_t*>(floats);
}

/// Queries, keys and values of a block: element i of feature f is at [f * stride + i].
struct AttentionBlock {
  const float* queries;
  std::int64_t query_stride;
  const float* keys;
  const float* values;
  std::int64_t key_stride;
  std::int64_t num_keys;
  std::int64_t width;
  float scale;
  bool causal;
  std::int64_t window;       // 0 for none
  float softcap;             // 0 for none
  const float* relative;     // [i - j] is added to the score of lane i and key j; null for none
  std::int64_t first_query;  // the place of lane 0, counted as those of the keys
  std::int64_t num_queries;  // lanes that hold one
};

/// Writes the scaled scores of each key for each query to `weights` (num_keys, C * kLanes), -inf
/// where the key is masked, and each query's largest score to `max_scores`.
template <int C>
PYCAT_INLINE void score_keys(const AttentionBlock& block, float* weights, Floats (&max_scores)[C]) {
  constexpr int kKeys = 8;
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) max_scores[c] = broadcast(-__builtin_inff());
  float places[C * kLanes];
  const std::int64_t last_query = block.first_query + block.num_queries - 1;
  for (int i = 0; i < C * kLanes; ++i) {
    // Lanes without a query take the last one's place: each lane sees at least one key.
    const std::int64_t place = block.first_query + i;
    places[i] = static_cast<float>(place < last_query ? place : last_query);
  }
  for (std::int64_t j = 0; j < block.num_keys; j += kKeys) {
    Floats sums[kKeys][C];
#pragma GCC unroll 16
    for (int r = 0; r < kKeys; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sums[r][c] = broadcast(0.0F);
    }
    add_products<FloatDot>(words(block.keys + j), 1, block.key_stride, words(block.queries),
                           block.query_stride, block.width, sums);
    const bool masked = block.causal && j + kKeys - 1 > block.first_query;
    const bool windowed = block.window > 0 && last_query - j >= block.window;
#pragma GCC unroll 16
    for (int r = 0; r < kKeys; ++r) {
      if (j + r >= block.num_keys) break;
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        Floats score = sums[r][c] * broadcast(block.scale);
        if (block.softcap > 0.0F) score = soft_cap(score, block.softcap);
        if (block.relative != nullptr) {
          score = score + load(block.relative - (j + r) + c * kLanes);
        }
        if (masked) {
          score = select_greater(broadcast(static_cast<float>(j + r)), load(places + c * kLanes),
                                 broadcast(-__builtin_inff()), score);
        }
        if (windowed) {
          const Floats last_place = broadcast(static_cast<float>(j + r + block.window - 1));
          score = select_greater(load(places + c * kLanes), last_place,
                                 broadcast(-__builtin_inff()), score);
        }
        max_scores[c] = max(max_scores[c], score);
        store(weights + ((j + r) * C + c) * kLanes, score);
      }
    }
  }
}

/// Replaces the scores in `weights` by exp(score - max_score), and writes to `inverse_totals` one
/// over each query's sum of these.
template <int C>
PYCAT_INLINE void exponentiate(std::int64_t num_keys, const Floats (&max_scores)[C], float* weights,
                               Floats (&inverse_totals)[C]) {
  Floats totals[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) totals[c] = broadcast(0.0F);
  for (std::int64_t j = 0; j < num_keys; ++j) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      float* at = weights + (j * C + c) * kLanes;
      const Floats e = exponential(load(at) - max_scores[c]);
      totals[c] = totals[c] + e;
      store(at, e);
    }
  }
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) inverse_totals[c] = broadcast(1.0F) / totals[c];
}

/// Writes the values' means by `weights` to `out`, laid out as the queries are.
template <int C>
PYCAT_INLINE void average_values(const AttentionBlock& block, const float* weights,
                                 const Floats (&inverse_totals)[C], float* out) {
  constexpr int kRows = 8;
  for (std::int64_t f = 0; f < block.width; f += kRows) {
    Floats sums[kRows][C];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sums[r][c] = broadcast(0.0F);
    }
    add_products<FloatDot>(words(block.values + f * block.key_stride), block.key_stride, 1,
                           words(weights), C * kLanes, block.num_keys, sums);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        store(out + (f + r) * block.query_stride + c * kLanes, sums[r][c] * inverse_totals[c]);
      }
    }
  }
}

/// Attention of C lane groups of queries. `weights` holds C * kLanes floats for each key. `out` may
/// be where the queries are.
template <int C>
void attend_block(const AttentionBlock& block, float* weights, float* out) {
  Floats max_scores[C];
  Floats inverse_totals[C];
  score_keys(block, weights, max_scores);
  exponentiate(block.num_keys, max_scores, weights, inverse_totals);
  average_values(block, weights, inverse_totals, out);
}

/// PanelMath::attend: a sentence's queries, keys and values are copied out of their panels, and the
/// result into its panels.
template <int C>
void attend(const AttentionHead& head) {
  constexpr std::int64_t kBlock = 2 * kLanes;
  // Not round_up() of base/int_math.h: code of one instruction set shares no inline function.
  const auto strided = [](std::int64_t count) { return (count + kBlock - 1) / kBlock * kBlock; };
  const std::int64_t query_stride = strided(head.num_queries + kLanes);
  const std::int64_t num_keys = head.num_shared + head.num_keys;
  const std::int64_t key_stride = strided(num_keys + kLanes);
  float* queries = head.scratch;
  float* keys = queries + head.width * query_stride;
  float* values = keys + head.width * key_stride;
  float* weights = values + head.width * key_stride;
  gather_tokens<C>(head.queries, head.first_query, head.num_queries, head.width, queries,
                   query_stride);
  gather_tokens<C>(head.keys, 0, head.num_shared, head.width, keys, key_stride);
  gather_tokens<C>(head.values, 0, head.num_shared, head.width, values, key_stride);
  gather_tokens<C>(head.keys, head.first_key, head.num_keys, head.width, keys + head.num_shared,
                   key_stride);
  gather_tokens<C>(head.values, head.first_key, head.num_keys, head.width, values + head.num_shared,
                   key_stride);
  for (std::int64_t i = 0; i < head.num_queries;) {
    const std::int64_t left = head.num_queries - i;
    const std::int64_t size = left > kLanes ? kBlock : kLanes;
    const std::int64_t end = i + (left < size ? left : size);
    const std::int64_t place = head.num_shared + i;  // counted as those of the keys
    // Keys before the window of the block's first query are left out.
    const std::int64_t first_key =
        head.window > 0 && place >= head.window ? place - head.window + 1 : 0;
    AttentionBlock block = {};
    block.queries = queries + i;
    block.query_stride = query_stride;
    block.keys = keys + first_key;
    block.values = values + first_key;
    block.key_stride = key_stride;
    block.num_keys = (head.causal ? head.num_shared + end : num_keys) - first_key;
    block.width = head.width;
    block.scale = head.scale;
    block.causal = head.causal;
    block.window = head.window;
    block.softcap = head.softcap;
    block.relative = head.relative == nullptr ? nullptr : head.relative + place - first_key;
    block.first_query = place - first_key;
    block.num_queries = end - i;
    // The block's result replaces its queries.
    (left > kLanes ? attend_block<2> : attend_block<1>)(block, weights, queries + i);
    i += size;
  }
  scatter_tokens<C>(queries, query_stride, head.first_query, head.num_queries, head.width,
                    head.out_row, head.out, head.out_panel_floats);
}

}  // namespace
}  // namespace pycat
