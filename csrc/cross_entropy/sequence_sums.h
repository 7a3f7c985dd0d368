#pragma once

#include <cstdint>
#include <vector>

namespace pycat {

/// The target of each token, and the sequences that the tokens belong to.
struct TokenTargets {
  const std::int64_t* targets;  // (T,)
  std::int64_t num_tokens;
  const std::int32_t* cu_seqlens;  // (B + 1,), from 0 to T
  std::int64_t num_sequences;
  std::int64_t ignore_index;
  std::int64_t vocab_size;
  std::int64_t num_checkpoints;  // K
  std::int64_t num_stats;        // 1 for nll alone, or more TokenStats
};

/// The results. Every element is written.
struct SequenceResults {
  double* sums;              // (num_stats, K, B)
  std::int64_t* num_tokens;  // (B,)
  double* ppl_mean;          // (B,)
  double* ppl_var;           // (B,)
  float* nll_per_token;      // (K, T) or null
  std::int64_t first_bad;    // the first target out of range, T if none
};

/// Throws std::invalid_argument unless `cu_seqlens` (B + 1,) rises from 0 to `num_tokens`. `tokens`
/// is the message's word for these.
void check_cu_seqlens(const std::int32_t* cu_seqlens, std::int64_t num_sequences,
                      std::int64_t num_tokens, const char* tokens);

/// Sums of tokens' statistics over sequences. Statistics are taken for a range of tokens at a time,
/// so that memory does not grow with T. They are added in float64, in the order of the tokens,
/// whichever thread computed them.
class SequenceSums {
 public:
  /// Throws std::invalid_argument unless cu_seqlens rises from 0 to T.
  SequenceSums(const TokenTargets& targets, SequenceResults& results);

  /// Begins the next range. Returns false after the last one.
  bool next_range();

  /// The tokens of this range to compute: those whose target is neither ignored nor out of range.
  const std::vector<std::int64_t>& tokens() const { return tokens_; }

  /// Where the statistics of a token under checkpoint k go, stat_stride() apart.
  double* values(std::int64_t k, std::int64_t token) {
    return values_.data() + k * range_tokens_ + (token - begin_);
  }
  std::int64_t stat_stride() const { return targets_.num_checkpoints * range_tokens_; }

  /// Adds this range's values to the sums.
  void add_range();

  /// Writes num_tokens, ppl_mean and ppl_var. Call it after the last range.
  void finish();

 private:
  TokenTargets targets_;
  SequenceResults& results_;
  std::int64_t range_tokens_ = 0;
  std::int64_t begin_ = 0;
  std::int64_t end_ = 0;
  std::int64_t sequence_ = 0;  // the sequence of token begin_
  std::vector<std::int64_t> tokens_;
  std::vector<double> values_;
};

}  // namespace pycat
