#pragma once

// Smoothed cross-entropy of one token and its gradient, in float32. The source of each instruction
// set includes this file behind its vectors.

#include <cstdint>

#include "training/kernel.h"
#include "training/rows.h"

namespace pycat {
namespace {

/// Replaces logits by the gradient of the weighted loss, and returns the loss, not weighted.
float loss_and_gradient(const LossTask& task) {
  const std::int64_t size = task.vocab_size;
  const std::int64_t padded = (size + kLanes - 1) / kLanes * kLanes;
  float* z = task.scratch;
  read_row(task.logits, task.bfloat16, size, z);
  for (std::int64_t v = size; v < padded; ++v) z[v] = -__builtin_inff();
  const float target_logit = z[task.target];

  // The largest logit, and the sum of all; the last vector may hold fewer.
  Floats highest = broadcast(-__builtin_inff());
  Floats sums = broadcast(0.0F);
  std::int64_t v = 0;
  for (; v + kLanes <= size; v += kLanes) {
    const Floats logits = load(z + v);
    highest = max(highest, logits);
    sums = sums + logits;
  }
  float lanes[kLanes];
  store(lanes, sums);
  float total = 0.0F;
  for (const float lane : lanes) total += lane;
  store(lanes, highest);
  float most = lanes[0];
  for (const float lane : lanes) most = lane > most ? lane : most;
  for (; v < size; ++v) {
    total += z[v];
    most = z[v] > most ? z[v] : most;
  }

  // exp(z - most), 0 behind the last.
  Floats exponentials = broadcast(0.0F);
  for (v = 0; v < padded; v += kLanes) {
    const Floats e = exponential(load(z + v) - broadcast(most));
    exponentials = exponentials + e;
    store(z + v, e);
  }
  store(lanes, exponentials);
  float sum_exp = 0.0F;
  for (const float lane : lanes) sum_exp += lane;

  const float floor = task.smoothing / static_cast<float>(size);
  const Floats scale = broadcast(task.weight / sum_exp);
  const Floats offset = broadcast(-floor * task.weight);
  for (v = 0; v < padded; v += kLanes) store(z + v, multiply_add(load(z + v), scale, offset));
  z[task.target] -= (1.0F - task.smoothing) * task.weight;
  write_row(z, task.bfloat16, size, task.logits);
  const float log_sum = most + __builtin_logf(sum_exp);
  return log_sum - (1.0F - task.smoothing) * target_logit - floor * total;
}

}  // namespace
}  // namespace pycat
