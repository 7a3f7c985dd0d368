#pragma once

// Attention of one head of one sequence, and its gradients, in float32. The source of each
// instruction set includes this file behind its vectors.
//
// A sequence of training is short, so that its scores fit into a core's cache as they are: queries,
// keys and values are copied out as float32 rows, and every product is one of small dense matrices.
// Scores are laid out query after query, with keys in the lanes.

#include <cstdint>

#include "simd/tile_product.h"
#include "training/kernel.h"
#include "training/rows.h"

namespace pycat {
namespace {

PYCAT_INLINE const std::uint32_t* words(const float* floats) {
  return reinterpret_cast<const std::uint32_t*>(floats);
}

/// Where row i of a head begins.
PYCAT_INLINE void* row_of(const HeadRows& rows, bool bfloat16, std::int64_t i) {
  return static_cast<char*>(rows.data) + i * rows.stride * (bfloat16 ? 2 : 4);
}

/// Copies rows of a head as float32, one behind the other.
void read_rows(const HeadRows& rows, bool bfloat16, std::int64_t count, std::int64_t width,
               float* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    read_row(row_of(rows, bfloat16, i), bfloat16, width, out + i * width);
  }
}

/// Writes float32 rows to a head, rounded where it holds bfloat16.
void write_rows(const float* from, bool bfloat16, std::int64_t count, std::int64_t width,
                const HeadRows& rows) {
  for (std::int64_t i = 0; i < count; ++i) {
    write_row(from + i * width, bfloat16, width, row_of(rows, bfloat16, i));
  }
}

/// Writes rows (count, width) as columns (width, stride), and zeros behind the last column.
void transpose(const float* rows, std::int64_t count, std::int64_t width, std::int64_t stride,
               float* out) {
  for (std::int64_t f = 0; f < width; ++f) {
    for (std::int64_t j = count; j < stride; ++j) out[f * stride + j] = 0.0F;
  }
  for (std::int64_t j = 0; j < count; ++j) {
    for (std::int64_t f = 0; f < width; ++f) out[f * stride + j] = rows[j * width + f];
  }
}

/// What a product of small matrices reads and writes: out[r][n] = sum over u of
/// left[r * row_stride + u * word_stride] * right[u * right_stride + n].
struct SmallProduct {
  const float* left;
  std::int64_t row_stride;
  std::int64_t word_stride;
  const float* right;
  std::int64_t right_stride;
  float* out;
  std::int64_t out_stride;
};

/// R rows and C lane groups of a product, over u from `first` to `last`.
template <int R, int C>
PYCAT_INLINE void multiply_tile(const SmallProduct& product, std::int64_t row, std::int64_t lane,
                                std::int64_t first, std::int64_t last) {
  Floats sums[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sums[r][c] = broadcast(0.0F);
  }
  add_products<FloatDot>(
      words(product.left + row * product.row_stride + first * product.word_stride),
      product.row_stride, product.word_stride,
      words(product.right + first * product.right_stride + lane), product.right_stride,
      last - first, sums);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      store(product.out + (row + r) * product.out_stride + lane + c * kLanes, sums[r][c]);
    }
  }
}

/// Which part of a product a causal mask leaves: all; lanes up to the row; u up to the row; or u
/// from the row on.
enum class Part { kAll, kLanesToRow, kWordsToRow, kWordsFromRow };

template <int R>
PYCAT_INLINE void multiply_rows(const SmallProduct& product, Part part, std::int64_t row,
                                std::int64_t width, std::int64_t depth) {
  const std::int64_t after = row + R;
  std::int64_t lanes = width;
  std::int64_t first = 0;
  std::int64_t last = depth;
  if (part == Part::kLanesToRow && after < lanes) lanes = (after + kLanes - 1) / kLanes * kLanes;
  if (part == Part::kWordsToRow && after < last) last = after;
  if (part == Part::kWordsFromRow) first = row < depth ? row : depth;
  std::int64_t lane = 0;
  for (; lane + 2 * kLanes <= lanes; lane += 2 * kLanes) {
    multiply_tile<R, 2>(product, row, lane, first, last);
  }
  if (lane < lanes) multiply_tile<R, 1>(product, row, lane, first, last);
}

/// A whole product; `width` is a multiple of the lanes.
void multiply(const SmallProduct& product, Part part, std::int64_t rows, std::int64_t width,
              std::int64_t depth) {
  std::int64_t row = 0;
  for (; row + 4 <= rows; row += 4) multiply_rows<4>(product, part, row, width, depth);
  for (; row < rows; ++row) multiply_rows<1>(product, part, row, width, depth);
}

/// Copies and scores that both directions begin with.
struct Head {
  float* queries;      // (num_queries, width)
  float* keys;         // (num_keys, width)
  float* values;       // (num_keys, width)
  float* key_columns;  // (width, key_stride)
  float* scores;       // (num_queries, key_stride)
  float* left;         // scratch that is left
  std::int64_t key_stride;
};

Head read_head(const AttentionHeadTask& task) {
  Head head = {};
  head.key_stride = (task.num_keys + kLaneStep - 1) / kLaneStep * kLaneStep;
  float* at = task.scratch;
  const auto take = [&at](std::int64_t count) {
    float* taken = at;
    at += count;
    return taken;
  };
  head.queries = take(task.num_queries * task.width);
  head.keys = take(task.num_keys * task.width);
  head.values = take(task.num_keys * task.width);
  head.key_columns = take(task.width * head.key_stride);
  head.scores = take(task.num_queries * head.key_stride);
  head.left = at;
  read_rows(task.queries, task.bfloat16, task.num_queries, task.width, head.queries);
  read_rows(task.keys, task.bfloat16, task.num_keys, task.width, head.keys);
  read_rows(task.values, task.bfloat16, task.num_keys, task.width, head.values);
  transpose(head.keys, task.num_keys, task.width, head.key_stride, head.key_columns);
  multiply({head.queries, task.width, 1, head.key_columns, head.key_stride, head.scores,
            head.key_stride},
           task.causal ? Part::kLanesToRow : Part::kAll, task.num_queries, head.key_stride,
           task.width);
  return head;
}

/// Keys that query i sees.
PYCAT_INLINE std::int64_t visible_keys(const AttentionHeadTask& task, std::int64_t i) {
  return task.causal && i + 1 < task.num_keys ? i + 1 : task.num_keys;
}

/// The lanes' places behind `first`, to tell keys that are hidden.
PYCAT_INLINE Floats places_from(std::int64_t first) {
  float places[kLanes];
  for (int i = 0; i < kLanes; ++i) places[i] = static_cast<float>(first + i);
  return load(places);
}

/// Replaces scores of keys from `visible` on by -inf in a vector that begins at key j.
PYCAT_INLINE Floats hide(Floats scores, std::int64_t j, std::int64_t visible) {
  if (j + kLanes <= visible) return scores;
  return select_greater(places_from(j), broadcast(static_cast<float>(visible) - 0.5F),
                        broadcast(-__builtin_inff()), scores);
}

/// Replaces a query's scores by exp(scale * score - shift), 0 where the key is hidden, and returns
/// the sum of these.
PYCAT_INLINE float exponentiate(float* scores, float scale, float shift, std::int64_t visible,
                                std::int64_t key_stride) {
  Floats totals = broadcast(0.0F);
  std::int64_t j = 0;
  for (; j < visible; j += kLanes) {
    const Floats scaled = hide(load(scores + j) * broadcast(scale), j, visible);
    const Floats e = exponential(scaled - broadcast(shift));
    totals = totals + e;
    store(scores + j, e);
  }
  for (; j < key_stride; j += kLanes) store(scores + j, broadcast(0.0F));
  float lanes[kLanes];
  store(lanes, totals);
  float total = 0.0F;
  for (const float lane : lanes) total += lane;
  return total;
}

void attend_forward(const AttentionHeadTask& task) {
  const Head head = read_head(task);
  for (std::int64_t i = 0; i < task.num_queries; ++i) {
    float* scores = head.scores + i * head.key_stride;
    const std::int64_t visible = visible_keys(task, i);
    Floats highest = broadcast(-__builtin_inff());
    for (std::int64_t j = 0; j < visible; j += kLanes) {
      highest = max(highest, hide(load(scores + j), j, visible));
    }
    float lanes[kLanes];
    store(lanes, highest);
    float shift = lanes[0];
    for (const float lane : lanes) shift = lane > shift || lane != lane ? lane : shift;
    shift *= task.scale;
    const float total = exponentiate(scores, task.scale, shift, visible, head.key_stride);
    task.log_sums[i * task.log_sum_stride] = shift + __builtin_logf(total);
    const Floats share = broadcast(1.0F / total);
    for (std::int64_t j = 0; j < visible; j += kLanes) store(scores + j, load(scores + j) * share);
  }
  float* out = head.left;
  multiply({head.scores, head.key_stride, 1, head.values, task.width, out, task.width},
           task.causal ? Part::kWordsToRow : Part::kAll, task.num_queries, task.width,
           task.num_keys);
  write_rows(out, task.bfloat16, task.num_queries, task.width, task.out);
}

void attend_backward(const AttentionHeadTask& task) {
  const Head head = read_head(task);
  const Part words_to_row = task.causal ? Part::kWordsToRow : Part::kAll;
  const Part words_from_row = task.causal ? Part::kWordsFromRow : Part::kAll;
  float* out_grad = head.left;
  float* share_grads = out_grad + task.num_queries * task.width;
  float* value_columns = share_grads + task.num_queries * head.key_stride;
  float* result = value_columns + task.width * head.key_stride;

  // What each query attends to, as the forward pass found it.
  for (std::int64_t i = 0; i < task.num_queries; ++i) {
    exponentiate(head.scores + i * head.key_stride, task.scale,
                 task.log_sums[i * task.log_sum_stride], visible_keys(task, i), head.key_stride);
  }

  // The values' gradient: shares^T out_grad.
  read_rows(task.out_grad, task.bfloat16, task.num_queries, task.width, out_grad);
  multiply({head.scores, 1, head.key_stride, out_grad, task.width, result, task.width},
           words_from_row, task.num_keys, task.width, task.num_queries);
  write_rows(result, task.bfloat16, task.num_keys, task.width, task.value_grad);

  // The scores' gradient: share * (share's gradient - out . out_grad) * scale.
  transpose(head.values, task.num_keys, task.width, head.key_stride, value_columns);
  multiply({out_grad, task.width, 1, value_columns, head.key_stride, share_grads, head.key_stride},
           task.causal ? Part::kLanesToRow : Part::kAll, task.num_queries, head.key_stride,
           task.width);
  read_rows(task.out, task.bfloat16, task.num_queries, task.width, result);
  for (std::int64_t i = 0; i < task.num_queries; ++i) {
    Floats products = broadcast(0.0F);
    for (std::int64_t f = 0; f < task.width; f += kLanes) {
      products = multiply_add(load(result + i * task.width + f),
                              load(out_grad + i * task.width + f), products);
    }
    float lanes[kLanes];
    store(lanes, products);
    float dot = 0.0F;
    for (const float lane : lanes) dot += lane;
    float* shares = head.scores + i * head.key_stride;
    const float* grads = share_grads + i * head.key_stride;
    const std::int64_t visible = visible_keys(task, i);
    for (std::int64_t j = 0; j < visible; j += kLanes) {
      const Floats grad = load(grads + j) - broadcast(dot);
      store(shares + j, load(shares + j) * grad * broadcast(task.scale));
    }
  }
  multiply({head.scores, head.key_stride, 1, head.keys, task.width, result, task.width},
           words_to_row, task.num_queries, task.width, task.num_keys);
  write_rows(result, task.bfloat16, task.num_queries, task.width, task.query_grad);
  multiply({head.scores, 1, head.key_stride, head.queries, task.width, result, task.width},
           words_from_row, task.num_keys, task.width, task.num_queries);
  write_rows(result, task.bfloat16, task.num_keys, task.width, task.key_grad);
}

}  // namespace
}  // namespace pycat
