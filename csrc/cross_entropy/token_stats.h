#pragma once

#include <cstdint>

namespace pycat {

/// Rows of the stacked sums: kNll alone, or all of them (kGradNormBound with hidden states only).
enum TokenStat {
  kNll,
  kTargetProbability,
  kCorrect,
  kEl2n,
  kMargin,
  kEntropy,
  kGradNormBound,
  kNumTokenStats
};

/// A token's statistics from what the pass over the vocabulary left: `fields` are `stride` apart.
/// Writes the first `num_stats` of them `out_stride` apart; all NaN where the logits define no
/// distribution (NaN, +inf, or -inf throughout).
void finish_token(const float* fields, std::int64_t stride, double hidden_norm,
                  std::int64_t num_stats, double* out, std::int64_t out_stride);

}  // namespace pycat
