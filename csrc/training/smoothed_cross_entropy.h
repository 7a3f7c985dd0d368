#pragma once

#include <cstdint>

#include "simd/cpu_isa.h"

namespace pycat {

/// T tokens' logits (T, V), float32, or bfloat16 as 16-bit words.
struct SmoothedLogits {
  void* logits;
  std::int64_t num_tokens;
  std::int64_t vocab_size;
  const std::int64_t* targets;  // (T,), in [0, V)
  const float* weights;         // (T,)
  float smoothing;
  bool bfloat16;
};

/// Writes each token's smoothed cross-entropy in nats, and replaces its logits by the gradient of
/// that loss times the token's weight.
void smoothed_cross_entropy(CpuIsa isa, const SmoothedLogits& tokens, float* losses,
                            std::int64_t num_threads);

}  // namespace pycat
