#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "corpus/pair_order.h"

namespace pycat {

struct PlanOptions {
  std::int64_t batch_tokens;  // bound on the tokens computed in a batch, on each side
  bool padded;                // whether padding is computed, and counts
  std::int64_t world_size;    // ranks that share the batches
};

/// Cuts sorted pairs into batches of neighbours, each pair in exactly one.
///
/// The lengths alone decide where a batch ends. The plan keeps runs of batches with equally many
/// pairs, and computes the pairs of a batch when asked for. An epoch with a seed permutes the pairs
/// of equal lengths, and the order of the batches. At each step, the ranks take `world_size`
/// neighbouring batches, one each, so that all compute about as much.
class BatchPlan {
 public:
  struct Epoch {
    std::optional<std::uint64_t> seed;
    std::uint64_t number;
  };

  BatchPlan(std::shared_ptr<const PairOrder> order, PlanOptions options);

  /// Number of batches of all ranks together: a multiple of world_size unless there are too few
  /// pairs.
  std::uint64_t num_batches() const noexcept { return num_batches_; }
  /// Number of steps in an epoch. In the last one, some ranks may have no batch.
  std::uint64_t num_steps() const noexcept;
  /// Number of batches of one rank in an epoch. All ranks have equally many unless there are too
  /// few pairs.
  std::uint64_t num_batches(std::int64_t rank) const noexcept;
  /// The batch that `rank` takes at `step`, if it has one at this step.
  std::optional<std::uint64_t> batch_at(Epoch epoch, std::uint64_t step,
                                        std::int64_t rank) const noexcept;
  /// Writes the pair ids of a batch to `ids`.
  void pairs(Epoch epoch, std::uint64_t batch, std::vector<std::int64_t>& ids) const;

  /// An upper bound on the bytes of a batch. A pair longer than batch_tokens, which has a batch of
  /// its own, may exceed it.
  std::uint64_t max_bytes() const noexcept;
  /// A hash of all that decides which batches the plan yields.
  std::uint64_t fingerprint() const noexcept { return fingerprint_; }
  const PlanOptions& options() const noexcept { return options_; }
  const PairOrder& order() const noexcept { return *order_; }

 private:
  /// Consecutive batches of `num_pairs` pairs each, up to the next run.
  struct Run {
    std::uint64_t first_batch;
    std::uint64_t begin;  // the first pair's position
    std::uint64_t num_pairs;
  };

  void cut_batches();
  void split_for_ranks();
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
