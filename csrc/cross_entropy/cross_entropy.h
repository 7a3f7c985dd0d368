#pragma once

#include <cstdint>

#include "cross_entropy/packing.h"
#include "cross_entropy/sequence_sums.h"
#include "simd/cpu_isa.h"

namespace pycat {

/// The hidden states (K, T, H) and the output layers of K checkpoints.
struct LinearHeads {
  const char* hidden;  // (K, T, H)
  FloatType type;
  std::int64_t width;  // H
  const char* weight;  // (K, V, H), or null if packed
  const char* bias;    // (K, V) or null; unused if packed
  FloatType bias_type;
  const std::uint32_t* tiles;  // (K, tiles, tile_words) from pack_weight, or null if not packed
};

/// Statistics of logits (K, T, V). Throws std::invalid_argument unless cu_seqlens rises from 0 to
/// T.
void cross_entropy(CpuIsa isa, const TokenTargets& targets, const char* logits, FloatType type,
                   std::int64_t num_threads, SequenceResults& results);

/// Statistics of the logits hidden times weight, which are never stored. Throws
/// std::invalid_argument unless cu_seqlens rises from 0 to T. Uses below 32 MB of memory on up to
/// 64 threads.
void linear_cross_entropy(CpuIsa isa, const TokenTargets& targets, const LinearHeads& heads,
                          std::int64_t num_threads, SequenceResults& results);

/// The kernel of `isa` for inputs of type `type`.
const LinearKernel& linear_kernel(CpuIsa isa, FloatType type);

}  // namespace pycat
