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
  const double target = field(kTarget);
  const double rest = field(kSum) - field(kSumError);
  // Log of the odds against the target: nothing cancels, however near to 0 or 1 it is.
  const double log_rest = std::log(rest);
  const double a = log_rest + (field(kReference) - target);
  const bool defined = !std::isnan(a) && target < std::numeric_limits<double>::infinity() &&
                       (rest > 0.0 || target > -std::numeric_limits<double>::infinity());
  // One exponential and one logarithm serve both sides: e^-|a| and log(1 + e^-|a|).
  const double smaller = std::exp(-std::abs(a));
  const double shared = std::log1p(smaller);
  stats[kNll] = std::max(a, 0.0) + shared;
  if (!defined) {
    stats.fill(std::numeric_limits<double>::quiet_NaN());
  } else if (num_stats > 1) {
    const double less_likely = smaller / (1.0 + smaller);
    const double more_likely = 1.0 / (1.0 + smaller);
    const double p_target = a > 0.0 ? less_likely : more_likely;
    const double p_rest = a > 0.0 ? more_likely : less_likely;
    stats[kTargetProbability] = p_target;
    stats[kMargin] = target - field(kMax);
    stats[kCorrect] = stats[kMargin] >= 0.0 ? 1.0 : 0.0;
    stats[kEntropy] = p_target > 0.0 ? p_target * stats[kNll] : 0.0;
    if (rest > 0.0) {
      const double squares = field(kSquares) - field(kSquaresError);
      const double weighted = field(kWeighted) - field(kWeightedError);
      stats[kEl2n] = p_rest * std::sqrt(1.0 + squares / (rest * rest));
      const double rest_nll = std::max(-a, 0.0) + shared;
      const double rest_entropy = std::max(0.0, log_rest - weighted / rest);
      stats[kEntropy] += p_rest > 0.0 ? p_rest * (rest_nll + rest_entropy) : 0.0;
    }
    stats[kGradNormBound] = stats[kEl2n] * hidden_norm;
  }
  for (std::int64_t s = 0; s < num_stats; ++s) {
    out[s * out_stride] = stats[static_cast<std::size_t>(s)];
  }
}

}  // namespace pycat
