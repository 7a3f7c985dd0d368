#pragma once

#include <cstdint>

namespace pycat {

/// Statistics of a token, in the order of the sums: kNll alone, or all of them. kGradNormBound
/// needs hidden states.
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

/// Writes the first `num_stats` statistics of a token, `out_stride` apart. `fields` are its
/// kNumTokenFields fields, `stride` apart; `hidden_norm` is the norm of its hidden state. All
/// statistics are NaN where the logits define no distribution: one is NaN or +inf, or all are -inf.
void finish_token(const float* fields, std::int64_t stride, double hidden_norm,
                  std::int64_t num_stats, double* out, std::int64_t out_stride);

}  // namespace pycat
