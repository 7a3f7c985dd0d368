#include "training/smoothed_cross_entropy.h"

#include <algorithm>
#include <vector>

#include "base/worker_threads.h"
#include "training/kernel.h"
#include "training/training_kernels.h"

namespace pycat {
namespace {

/// Tokens of a task: enough to make what handing it out costs small.
constexpr std::int64_t kTaskTokens = 16;

}  // namespace

void smoothed_cross_entropy(CpuIsa isa, const SmoothedLogits& tokens, float* losses,
                            std::int64_t num_threads) {
  const std::int64_t num_tasks = (tokens.num_tokens + kTaskTokens - 1) / kTaskTokens;
  const std::int64_t num_workers = std::max<std::int64_t>(1, std::min(num_threads, num_tasks));
  const std::int64_t size = loss_task_scratch(tokens.vocab_size);
  std::vector<float> scratch(static_cast<std::size_t>(num_workers * size));
  const std::int64_t row_bytes = tokens.vocab_size * (tokens.bfloat16 ? 2 : 4);
  const auto loss_and_gradient = training_kernels(isa).loss_and_gradient;
  run_tasks(num_tasks, num_workers, [&](std::int64_t task, std::int64_t worker) {
    const std::int64_t last = std::min((task + 1) * kTaskTokens, tokens.num_tokens);
    for (std::int64_t t = task * kTaskTokens; t < last; ++t) {
      losses[t] = loss_and_gradient(
          {static_cast<char*>(tokens.logits) + t * row_bytes, tokens.vocab_size, tokens.targets[t],
           tokens.weights[t], tokens.smoothing, tokens.bfloat16, scratch.data() + worker * size});
    }
  });
}

}  // namespace pycat
