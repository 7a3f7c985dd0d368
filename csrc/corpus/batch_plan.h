#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "corpus/pair_order.h"

namespace pycat {

struct PlanOptions {
  std::int64_t batch_tokens;  // bounds the tokens computed of a batch, on each side
  bool padded;                // so padding counts
  std::int64_t world_size;
};

/// Cuts sorted pairs into batches of neighbours, each pair in exactly one.
///
/// Where the cuts lie follows from the lengths alone, and they are kept as runs of equal batches:
/// any batch of any epoch is computed when asked for. An epoch with a seed permutes the pairs of
/// equal lengths and the order of the batches. Ranks take batches in groups of `world_size`
/// neighbours, one each, so that all compute about as much at the same time.
class BatchPlan {
 public:
  struct Epoch {
    std::optional<std::uint64_t> seed;
    std::uint64_t number;
  };

  BatchPlan(std::shared_ptr<const PairOrder> order, PlanOptions options);

  /// Batches of all ranks together: a multiple of world_size unless there are too few pairs.
  std::uint64_t num_batches() const noexcept { return num_batches_; }
  /// Steps of an epoch; in the last group some ranks may have no batch.
  std::uint64_t num_steps() const noexcept;
  /// Number of batches of one rank in an epoch. The others of the same world have as many unless
  /// the plan could not be cut evenly.
  std::uint64_t num_batches(std::int64_t rank) const noexcept;
  /// Which batch `rank` takes at `step`; none in a group that is not full.
  std::optional<std::uint64_t> batch_at(Epoch epoch, std::uint64_t step,
                                        std::int64_t rank) const noexcept;
  /// The pairs of a batch.
  void pairs(Epoch epoch, std::uint64_t batch, std::vector<std::int64_t>& ids) const;

  /// An upper bound on the memory of a batch, longer pairs that stand alone excepted.
  std::uint64_t most_bytes() const noexcept;
  /// Differs between plans that would not yield the same batches.
  std::uint64_t fingerprint() const noexcept { return fingerprint_; }
  const PlanOptions& options() const noexcept { return options_; }
  const PairOrder& order() const noexcept { return *order_; }

 private:
  /// Batches of `num_pairs` neighbours each, up to where the next run begins.
  struct Run {
    std::uint64_t first_batch;
    std::uint64_t begin;
    std::uint64_t num_pairs;
  };

  void cut();
  void cut_evenly();
  void add_batches(std::uint64_t begin, std::uint64_t num_pairs, std::uint64_t count);
  std::uint64_t num_batches_of(std::size_t run) const noexcept;
  std::uint64_t spare_pairs(std::size_t run) const noexcept;

  std::shared_ptr<const PairOrder> order_;
  PlanOptions options_;
  std::vector<Run> runs_;
  std::uint64_t num_batches_ = 0;
  std::uint64_t fingerprint_ = 0;
};

}  // namespace pycat
