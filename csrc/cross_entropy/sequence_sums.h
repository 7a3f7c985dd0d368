#pragma once

#include <cstdint>
#include <vector>

namespace pycat {

/// What is asked of every token, and of which sequence it is part.
struct TokenTargets {
  const std::int64_t* targets;  // (T,)
  std::int64_t num_tokens;
  const std::int32_t* cu_seqlens;  // (B + 1,), from 0 to T
  std::int64_t num_sequences;
  std::int64_t ignore_index;
  std::int64_t vocab_size;
  std::int64_t num_checkpoints;
  std::int64_t num_stats;
};

/// Where results go; every element is written.
struct SequenceResults {
  double* sums;              // (num_stats, K, B)
  std::int64_t* num_tokens;  // (B,)
  double* ppl_mean;          // (B,)
  double* ppl_var;           // (B,)
  float* nll_per_token;      // (K, T) or null
  std::int64_t first_bad;    // the first target out of range, T if none
};

/// Throws std::invalid_argument unless `cu_seqlens` (B + 1) rises from 0 to the number of `tokens`,
/// which the message calls so.
void check_cu_seqlens(const std::int32_t* cu_seqlens, std::int64_t num_sequences,
                      std::int64_t num_tokens, const char* tokens);

/// Takes the tokens' statistics a range of tokens at a time, so that memory does not grow with T,
/// and adds them up in float64 in the order of the tokens, whoever computed them.
class SequenceSums {
 public:
  /// Throws std::invalid_argument unless cu_seqlens rises from 0 to T.
  SequenceSums(const TokenTargets& targets, SequenceResults& results);

  /// Moves on to the next range; false after the last.
  bool next_range();

  /// Tokens of this range to compute: neither ignored nor out of range.
  const std::vector<std::int64_t>& tokens() const { return tokens_; }

  /// Where the statistics of (k, token) go, `stat_stride()` apart.
  double* values(std::int64_t k, std::int64_t token) {
    return values_.data() + k * range_tokens_ + (token - begin_);
  }
  std::int64_t stat_stride() const { return targets_.num_checkpoints * range_tokens_; }

  /// Adds this range's values.
  void add_range();

  /// num_tokens, ppl_mean and ppl_var, after the last range.
  void finish();

 private:
  TokenTargets targets_;
  SequenceResults& results_;
  std::int64_t range_tokens_ = 0;
  std::int64_t begin_ = 0;
  std::int64_t end_ = 0;
  std::int64_t sequence_ = 0;  // the one that begin_ lies in
  std::vector<std::int64_t> tokens_;
  std::vector<double> values_;
};

}  // namespace pycat
