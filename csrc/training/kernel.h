#pragma once

// What the compute loops of one instruction set offer to training. This file holds
// plain data only, for the reason that cross_entropy/kernel.h gives.

#include <cstdint>

namespace pycat {

/// Rows of one head of one sequence: row i begins `i * stride` elements behind `data`. Elements are
/// float32, or bfloat16 as 16-bit words.
struct HeadRows {
  void* data;
  std::int64_t stride;
};

/// One head of one sequence. Forward: out = softmax(scale * queries keys^T) values.
struct AttentionHeadTask {
  std::int64_t num_queries;
  std::int64_t num_keys;
  std::int64_t width;  // a multiple of kHeadWidthStep
  float scale;
  bool causal;  // query i sees keys up to i
  bool bfloat16;
  HeadRows queries;
  HeadRows keys;
  HeadRows values;
  HeadRows out;  // written forward, read backward
  /// Logarithm of the sum of exp(score) of each query, `log_sum_stride` apart: written forward.
  float* log_sums;
  std::int64_t log_sum_stride;
  HeadRows out_grad;
  HeadRows query_grad;
  HeadRows key_grad;
  HeadRows value_grad;
  float* scratch;  // attention_task_scratch() floats
};

constexpr std::int64_t kHeadWidthStep = 16;

/// Keys and logits are filled up to a multiple of the lanes of any instruction set.
constexpr std::int64_t kLaneStep = 16;

/// Floats of scratch memory for a task of up to so many queries and keys.
inline std::int64_t attention_task_scratch(std::int64_t width, std::int64_t num_queries,
                                           std::int64_t num_keys) {
  const std::int64_t keys = num_keys + kLaneStep;
  return width * (3 * num_queries + 5 * keys) + 2 * num_queries * keys;
}

/// Logits of one token, float32, or bfloat16 as 16-bit words.
struct LossTask {
  void* logits;  // (vocab_size,), replaced by their gradient
  std::int64_t vocab_size;
  std::int64_t target;
  float weight;
  float smoothing;
  bool bfloat16;
  float* scratch;  // loss_task_scratch() floats
};

inline std::int64_t loss_task_scratch(std::int64_t vocab_size) { return vocab_size + kLaneStep; }

struct TrainingKernels {
  void (*attend)(const AttentionHeadTask& task);
  void (*attend_backward)(const AttentionHeadTask& task);
  float (*loss_and_gradient)(const LossTask& task);
};

extern const TrainingKernels kPortableTraining;
#ifdef PYCAT_X86
extern const TrainingKernels kAvx2Training;
extern const TrainingKernels kAvx512Training;
#endif
#ifdef PYCAT_ARM64
extern const TrainingKernels kNeonTraining;
#endif

}  // namespace pycat
