#include "cross_entropy/linear_panels.h"

#include <algorithm>
#include <limits>

namespace pycat {

LinearPanel begin_panel(const LinearKernel& kernel, const std::uint32_t* words, const float* scales,
                        float* fields, TargetLogit* targets, std::int64_t num_targets) {
  const std::int64_t lanes = kernel.panel_tokens;
  std::fill_n(fields, kNumTokenFields * lanes, 0.0F);
  std::fill_n(fields + kReference * lanes, lanes, std::numeric_limits<float>::lowest());
  std::fill_n(fields + kMaxLogit * lanes, lanes, -std::numeric_limits<float>::infinity());
  std::sort(targets, targets + num_targets,
            [](const TargetLogit& a, const TargetLogit& b) { return a.row < b.row; });
  targets[num_targets] = {std::numeric_limits<std::int64_t>::max(), 0};
  return {words, scales, fields, targets, 0.0F};
}

}  // namespace pycat
