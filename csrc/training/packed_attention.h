#pragma once

#include <cstdint>

#include "simd/cpu_isa.h"

namespace pycat {

/// B sequences of queries and of keys, packed one behind the other, in `num_heads` heads. Elements
/// are float32, or bfloat16 as 16-bit words. A token's heads lie one behind the other; the tokens
/// are `..._stride` elements apart.
struct PackedHeads {
  const std::int32_t* query_ends;  // (B + 1,), from 0
  const std::int32_t* key_ends;    // (B + 1,), from 0
  std::int64_t num_sequences;
  std::int64_t num_heads;
  std::int64_t width;  // of a head, a multiple of kHeadWidthStep
  bool causal;         // query i sees keys up to i of its sequence
  bool bfloat16;
  const void* queries;
  std::int64_t query_stride;
  const void* keys;
  std::int64_t key_stride;
  const void* values;
  std::int64_t value_stride;
};

/// Writes softmax(queries keys^T / sqrt(width)) values to `out` (Tq, heads, width), and the
/// logarithm of the sum of exp(score) of each query and head to `log_sums` (Tq, heads).
void attend_packed(CpuIsa isa, const PackedHeads& heads, void* out, float* log_sums,
                   std::int64_t num_threads);

/// Writes the gradients of queries (Tq, heads, width), keys and values (Tk, heads, width).
void attend_packed_backward(CpuIsa isa, const PackedHeads& heads, const void* out,
                            const float* log_sums, const void* out_grad, void* query_grad,
                            void* key_grad, void* value_grad, std::int64_t num_threads);

}  // namespace pycat
