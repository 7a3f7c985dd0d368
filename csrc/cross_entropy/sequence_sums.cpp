#include "cross_entropy/sequence_sums.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "cross_entropy/token_stats.h"

namespace pycat {
namespace {

constexpr std::int64_t kRangeValues = 1 << 19;  // 4 MB of float64

}  // namespace

void check_cu_seqlens(const std::int32_t* cu_seqlens, std::int64_t num_sequences,
                      std::int64_t num_tokens, const char* tokens) {
  bool is_rising = cu_seqlens[0] == 0 && cu_seqlens[num_sequences] == num_tokens;
  for (std::int64_t b = 0; b < num_sequences; ++b) {
    is_rising = is_rising && cu_seqlens[b] <= cu_seqlens[b + 1];
  }
  if (is_rising) return;
  throw std::invalid_argument("cu_seqlens runs from " + std::to_string(cu_seqlens[0]) + " to " +
                              std::to_string(cu_seqlens[num_sequences]) +
                              "; expected it to rise from 0 to the " + std::to_string(num_tokens) +
                              " " + tokens);
}

SequenceSums::SequenceSums(const TokenTargets& targets, SequenceResults& results)
    : targets_(targets), results_(results) {
  check_cu_seqlens(targets.cu_seqlens, targets.num_sequences, targets.num_tokens, "targets");
  const std::int64_t rows = targets.num_stats * targets.num_checkpoints;
  range_tokens_ = std::min(targets.num_tokens, std::max<std::int64_t>(64, kRangeValues / rows));
  tokens_.reserve(static_cast<std::size_t>(range_tokens_));
  values_.resize(static_cast<std::size_t>(rows * range_tokens_));
  std::fill_n(results.sums, rows * targets.num_sequences, 0.0);
  results.first_bad = targets.num_tokens;
}

bool SequenceSums::next_range() {
  begin_ = end_;
  end_ = std::min(begin_ + range_tokens_, targets_.num_tokens);
  tokens_.clear();
  std::fill(values_.begin(), values_.end(), 0.0);
  for (std::int64_t t = begin_; t < end_; ++t) {
    const std::int64_t target = targets_.targets[t];
    if (target == targets_.ignore_index) continue;
    if (target >= 0 && target < targets_.vocab_size) {
      tokens_.push_back(t);
      continue;
    }
    results_.first_bad = std::min(results_.first_bad, t);
    for (std::int64_t row = 0; row < targets_.num_stats * targets_.num_checkpoints; ++row) {
      values_[static_cast<std::size_t>(row * range_tokens_ + t - begin_)] =
          std::numeric_limits<double>::quiet_NaN();
    }
  }
  return begin_ < end_;
}

void SequenceSums::add_range() {
  const std::int64_t num_rows = targets_.num_stats * targets_.num_checkpoints;
  while (targets_.cu_seqlens[sequence_ + 1] <= begin_) ++sequence_;
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const double* values = values_.data() + row * range_tokens_;
    double* sums = results_.sums + row * targets_.num_sequences;
    std::int64_t t = begin_;
    for (std::int64_t b = sequence_; t < end_; ++b) {
      const std::int64_t last = std::min<std::int64_t>(targets_.cu_seqlens[b + 1], end_);
      for (; t < last; ++t) sums[b] += values[t - begin_];
    }
  }
  if (results_.nll_per_token == nullptr) return;
  for (std::int64_t k = 0; k < targets_.num_checkpoints; ++k) {
    const double* nll = values_.data() + (kNll * targets_.num_checkpoints + k) * range_tokens_;
    float* out = results_.nll_per_token + k * targets_.num_tokens + begin_;
    for (std::int64_t i = 0; i < end_ - begin_; ++i) out[i] = static_cast<float>(nll[i]);
  }
}

void SequenceSums::finish() {
  const auto num_checkpoints = static_cast<double>(targets_.num_checkpoints);
  for (std::int64_t b = 0; b < targets_.num_sequences; ++b) {
    std::int64_t num_counted = 0;
    for (std::int64_t t = targets_.cu_seqlens[b]; t < targets_.cu_seqlens[b + 1]; ++t) {
      num_counted += targets_.targets[t] != targets_.ignore_index ? 1 : 0;
    }
    results_.num_tokens[b] = num_counted;
    const auto ppl = [&](std::int64_t k) {
      return std::exp(results_.sums[k * targets_.num_sequences + b] /
                      static_cast<double>(num_counted));
    };
    double mean = 0.0;
    for (std::int64_t k = 0; k < targets_.num_checkpoints; ++k) mean += ppl(k);
    mean /= num_checkpoints;
    double variance = 0.0;
    for (std::int64_t k = 0; k < targets_.num_checkpoints; ++k) {
      variance += (ppl(k) - mean) * (ppl(k) - mean);
    }
    results_.ppl_mean[b] = mean;
    results_.ppl_var[b] = variance / num_checkpoints;
  }
}

}  // namespace pycat
