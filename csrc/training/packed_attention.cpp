#include "training/packed_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/worker_threads.h"
#include "training/kernel.h"
#include "training/training_kernels.h"

namespace pycat {
namespace {

/// What is read and written besides queries, keys and values; null where a direction needs none.
struct Arrays {
  const void* out;
  float* log_sums;
  const void* out_grad;
  void* query_grad;
  void* key_grad;
  void* value_grad;
};

void for_each_head(void (*kernel)(const AttentionHeadTask&), const PackedHeads& heads,
                   const Arrays& arrays, std::int64_t num_threads) {
  std::int64_t most_queries = 0;
  std::int64_t most_keys = 0;
  for (std::int64_t b = 0; b < heads.num_sequences; ++b) {
    most_queries =
        std::max<std::int64_t>(most_queries, heads.query_ends[b + 1] - heads.query_ends[b]);
    most_keys = std::max<std::int64_t>(most_keys, heads.key_ends[b + 1] - heads.key_ends[b]);
  }
  const std::int64_t size = attention_task_scratch(heads.width, most_queries, most_keys);
  const std::int64_t num_workers =
      std::max<std::int64_t>(1, std::min(num_threads, heads.num_sequences));
  std::vector<float> scratch(static_cast<std::size_t>(num_workers * size));
  const std::int64_t element = heads.bfloat16 ? 2 : 4;
  const std::int64_t packed = heads.num_heads * heads.width;
  const auto rows = [element](const void* data, std::int64_t token, std::int64_t stride,
                              std::int64_t feature) {
    // HeadRows is for results too, so it is not const; no kernel writes to what it only reads.
    auto* bytes = static_cast<char*>(const_cast<void*>(data));
    return HeadRows{bytes == nullptr ? nullptr : bytes + (token * stride + feature) * element,
                    stride};
  };
  run_tasks(heads.num_sequences, num_workers, [&](std::int64_t b, std::int64_t worker) {
    const std::int64_t query = heads.query_ends[b];
    const std::int64_t key = heads.key_ends[b];
    for (std::int64_t h = 0; h < heads.num_heads; ++h) {
      const std::int64_t feature = h * heads.width;
      kernel({heads.query_ends[b + 1] - query, heads.key_ends[b + 1] - key, heads.width,
              1.0F / std::sqrt(static_cast<float>(heads.width)), heads.causal, heads.bfloat16,
              rows(heads.queries, query, heads.query_stride, feature),
              rows(heads.keys, key, heads.key_stride, feature),
              rows(heads.values, key, heads.value_stride, feature),
              rows(arrays.out, query, packed, feature),
              arrays.log_sums + query * heads.num_heads + h, heads.num_heads,
              rows(arrays.out_grad, query, packed, feature),
              rows(arrays.query_grad, query, packed, feature),
              rows(arrays.key_grad, key, packed, feature),
              rows(arrays.value_grad, key, packed, feature), scratch.data() + worker * size});
    }
  });
}

}  // namespace

void attend_packed(CpuIsa isa, const PackedHeads& heads, void* out, float* log_sums,
                   std::int64_t num_threads) {
  for_each_head(training_kernels(isa).attend, heads,
                {out, log_sums, nullptr, nullptr, nullptr, nullptr}, num_threads);
}

void attend_packed_backward(CpuIsa isa, const PackedHeads& heads, const void* out,
                            const float* log_sums, const void* out_grad, void* query_grad,
                            void* key_grad, void* value_grad, std::int64_t num_threads) {
  for_each_head(training_kernels(isa).attend_backward, heads,
                {out, const_cast<float*>(log_sums), out_grad, query_grad, key_grad, value_grad},
                num_threads);
}

}  // namespace pycat
