#include "token_stats.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "cross_entropy_kernel.h"

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
  const double a = std::log(rest) + (field(kReference) - target);
  const bool defined = !std::isnan(a) && target < std::numeric_limits<double>::infinity() &&
                       (rest > 0.0 || target > -std::numeric_limits<double>::infinity());
  if (!defined) {
    stats.fill(std::numeric_limits<double>::quiet_NaN());
  } else if (a > 0.0) {
    stats[kNll] = a + std::log1p(std::exp(-a));
  } else {
    stats[kNll] = std::log1p(std::exp(a));
  }
  if (defined && num_stats > 1) {
    const double p_target = 1.0 / (1.0 + std::exp(a));
    const double p_rest = 1.0 / (1.0 + std::exp(-a));
    stats[kTargetProbability] = p_target;
    stats[kMargin] = target - field(kMax);
    stats[kCorrect] = stats[kMargin] >= 0.0 ? 1.0 : 0.0;
    stats[kEntropy] = p_target > 0.0 ? p_target * stats[kNll] : 0.0;
    if (rest > 0.0) {
      const double squares = field(kSquares) - field(kSquaresError);
      const double weighted = field(kWeighted) - field(kWeightedError);
      stats[kEl2n] = p_rest * std::sqrt(1.0 + squares / (rest * rest));
      const double rest_nll = a > 0.0 ? std::log1p(std::exp(-a)) : std::log1p(std::exp(a)) - a;
      const double rest_entropy = std::max(0.0, std::log(rest) - weighted / rest);
      stats[kEntropy] += p_rest > 0.0 ? p_rest * (rest_nll + rest_entropy) : 0.0;
    }
    stats[kGradNormBound] = stats[kEl2n] * hidden_norm;
  }
  for (std::int64_t s = 0; s < num_stats; ++s) {
    out[s * out_stride] = stats[static_cast<std::size_t>(s)];
  }
}

}  // namespace pycat
