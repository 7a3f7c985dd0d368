#include "cross_entropy/token_stats.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "cross_entropy/kernel.h"

namespace pycat {

void finish_token(const float* fields, std::int64_t stride, double hidden_norm,
                  std::int64_t num_stats, double* out, std::int64_t out_stride) {
  const auto field = [&](TokenField name) {
    return static_cast<double>(fields[static_cast<std::int64_t>(name) * stride]);
  };
  std::array<double, kNumTokenStats> stats{};
  const double target_logit = field(kTargetLogit);
  const double sum_exp = field(kSumExp) - field(kSumExpError);
  // The log of the odds against the target: nothing cancels, however near to 0 or 1 the target's
  // probability is.
  const double log_sum_exp = std::log(sum_exp);
  const double log_odds_against = log_sum_exp + (field(kReference) - target_logit);
  const bool defined = !std::isnan(log_odds_against) &&
                       target_logit < std::numeric_limits<double>::infinity() &&
                       (sum_exp > 0.0 || target_logit > -std::numeric_limits<double>::infinity());
  // One exponential and one logarithm serve both the target and the other tokens.
  const double small_odds = std::exp(-std::abs(log_odds_against));
  const double log1p_small_odds = std::log1p(small_odds);
  stats[kNll] = std::max(log_odds_against, 0.0) + log1p_small_odds;
  if (!defined) {
    stats.fill(std::numeric_limits<double>::quiet_NaN());
  } else if (num_stats > 1) {
    const double less_likely = small_odds / (1.0 + small_odds);
    const double more_likely = 1.0 / (1.0 + small_odds);
    const double p_target = log_odds_against > 0.0 ? less_likely : more_likely;
    const double p_others = log_odds_against > 0.0 ? more_likely : less_likely;
    stats[kTargetProbability] = p_target;
    stats[kMargin] = target_logit - field(kMaxLogit);
    stats[kCorrect] = stats[kMargin] >= 0.0 ? 1.0 : 0.0;
    stats[kEntropy] = p_target > 0.0 ? p_target * stats[kNll] : 0.0;
    if (sum_exp > 0.0) {
      const double sum_exp_sq = field(kSumExpSq) - field(kSumExpSqError);
      const double sum_exp_z = field(kSumExpZ) - field(kSumExpZError);
      stats[kEl2n] = p_others * std::sqrt(1.0 + sum_exp_sq / (sum_exp * sum_exp));
      const double nll_others = std::max(-log_odds_against, 0.0) + log1p_small_odds;
      const double entropy_others = std::max(0.0, log_sum_exp - sum_exp_z / sum_exp);
      stats[kEntropy] += p_others > 0.0 ? p_others * (nll_others + entropy_others) : 0.0;
    }
    stats[kGradNormBound] = stats[kEl2n] * hidden_norm;
  }
  for (std::int64_t s = 0; s < num_stats; ++s) {
    out[s * out_stride] = stats[static_cast<std::size_t>(s)];
  }
}

}  // namespace pycat
