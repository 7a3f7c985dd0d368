#pragma once

#include <cstdint>

#include "cross_entropy/packing.h"
#include "cross_entropy/sequence_sums.h"
#include "simd/cpu_isa.h"

namespace pycat {

/// Hidden states (K, T, H), and the weight (K, V, H) as it is or packed by pack_weight.
struct LinearHeads {
  const char* hidden;
  FloatType type;
  std::int64_t width;
  const char* weight;  // null if packed
  const char* bias;    // (K, V) or null; unused if packed
  FloatType bias_type;
  const std::uint32_t* tiles;  // null if not packed
};

/// Statistics of logits (K, T, V), by `isa`. Throws std::invalid_argument if cu_seqlens is wrong.
void cross_entropy(CpuIsa isa, const TokenTargets& targets, const char* logits, FloatType type,
                   std::int64_t num_threads, SequenceResults& results);

/// Statistics of hidden times weight; logits are never stored. Extra memory: below
/// 32 MB on up to 64 threads.
void linear_cross_entropy(CpuIsa isa, const TokenTargets& targets, const LinearHeads& heads,
                          std::int64_t num_threads, SequenceResults& results);

/// The kernel that `isa` uses for inputs of this type.
const LinearKernel& linear_kernel(CpuIsa isa, FloatType type);

}  // namespace pycat
