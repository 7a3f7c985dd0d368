#include "corpus/batch_plan.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/hash.h"
#include "base/int_math.h"
#include "base/permutation.h"

namespace pycat {
namespace {

constexpr std::uint64_t kPrefetchAhead = 16;

void require_at_least_one(const char* name, std::int64_t value) {
  if (value >= 1) return;
  throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                              ", expected at least 1");
}

/// The key of one of an epoch's permutations: `purpose` tells them apart.
std::uint64_t key(BatchPlan::Epoch epoch, std::uint64_t purpose) {
  Hash hash;
  hash.add(*epoch.seed);
  hash.add(epoch.number);
  hash.add(purpose);
  return hash.value();
}

/// The tokens that a batch computes, while pairs are added to it.
class BatchCost {
 public:
  BatchCost(std::uint64_t budget, bool padded) : budget_(budget), padded_(padded) {}

  std::uint64_t num_pairs() const noexcept { return num_pairs_; }

  /// How many more pairs of these lengths fit. One always fits an empty batch.
  std::uint64_t room(std::uint64_t src_length, std::uint64_t tgt_length) const noexcept {
    std::uint64_t fit = 0;
    if (padded_) {
      const std::uint64_t longest = std::max({longest_, src_length, tgt_length});
      fit = budget_ / longest;
      fit -= std::min(fit, num_pairs_);
    } else if (std::max(src_tokens_, tgt_tokens_) < budget_) {
      fit = std::min((budget_ - src_tokens_) / src_length, (budget_ - tgt_tokens_) / tgt_length);
    }
    return num_pairs_ == 0 ? std::max<std::uint64_t>(fit, 1) : fit;
  }

  void add(std::uint64_t count, std::uint64_t src_length, std::uint64_t tgt_length) noexcept {
    num_pairs_ += count;
    src_tokens_ += count * src_length;
    tgt_tokens_ += count * tgt_length;
    longest_ = std::max({longest_, src_length, tgt_length});
  }

 private:
  std::uint64_t budget_;
  bool padded_;
  std::uint64_t num_pairs_ = 0;
  std::uint64_t src_tokens_ = 0;
  std::uint64_t tgt_tokens_ = 0;
  std::uint64_t longest_ = 0;
};

}  // namespace

BatchPlan::BatchPlan(std::shared_ptr<const PairOrder> order, PlanOptions options)
    : order_(std::move(order)), options_(options) {
  require_at_least_one("batch_tokens", options_.batch_tokens);
  require_at_least_one("world_size", options_.world_size);
  if (options_.batch_tokens > std::numeric_limits<std::int32_t>::max()) {
    throw std::invalid_argument("batch_tokens is " + std::to_string(options_.batch_tokens) +
                                ", expected at most 2147483647, since boundaries are int32");
  }
  if (order_->size() == 0) throw std::invalid_argument("there are no pairs to batch");
  cut_batches();
  split_for_ranks();

  Hash hash;
  hash.add(static_cast<std::uint64_t>(options_.batch_tokens));
  hash.add(options_.padded ? 1 : 0);
  hash.add(static_cast<std::uint64_t>(options_.world_size));
  hash.add(order_->size());
  hash.add(order_->choice());
  for (const PairOrder::Cell& cell : order_->cells()) {
    hash.add(static_cast<std::uint64_t>(cell.tgt_length));
    hash.add(static_cast<std::uint64_t>(cell.src_length));
    hash.add(cell.begin);
  }
  fingerprint_ = hash.value();
}

void BatchPlan::cut_batches() {
  const auto budget = static_cast<std::uint64_t>(options_.batch_tokens);
  const std::vector<PairOrder::Cell>& cells = order_->cells();
  BatchCost batch(budget, options_.padded);
  std::uint64_t begin = 0;  // the first pair of the batch that is being filled
  for (std::size_t cell = 0; cell < cells.size(); ++cell) {
    const auto src_length = static_cast<std::uint64_t>(cells[cell].src_length);
    const auto tgt_length = static_cast<std::uint64_t>(cells[cell].tgt_length);
    std::uint64_t left = order_->end(cell) - cells[cell].begin;
    const auto add = [&](std::uint64_t count) {
      batch.add(count, src_length, tgt_length);
      left -= count;
    };
    add(std::min(left, batch.room(src_length, tgt_length)));
    while (left > 0) {
      // The batch is full. Batches that hold pairs of this cell alone are equal, except the last.
      add_batches(begin, batch.num_pairs(), 1);
      begin += batch.num_pairs();
      batch = BatchCost(budget, options_.padded);
      const std::uint64_t full_batch = batch.room(src_length, tgt_length);
      const std::uint64_t count = left / full_batch;
      if (count > 1) {
        add_batches(begin, full_batch, count - 1);
        begin += full_batch * (count - 1);
        left -= full_batch * (count - 1);
      }
      add(std::min(left, full_batch));
    }
  }
  add_batches(begin, batch.num_pairs(), 1);
}

void BatchPlan::add_batches(std::uint64_t begin, std::uint64_t num_pairs, std::uint64_t count) {
  if (runs_.empty() || runs_.back().num_pairs != num_pairs) {
    runs_.push_back({num_batches_, begin, num_pairs});
  }
  num_batches_ += count;
}

/// Splits the largest runs into a few more batches, so that every rank gets equally many.
void BatchPlan::split_for_ranks() {
  const auto world_size = static_cast<std::uint64_t>(options_.world_size);
  std::uint64_t num_missing = (world_size - num_batches_ % world_size) % world_size;
  if (order_->size() < num_batches_ + num_missing)
    return;  // too few pairs: some ranks get no batch in the last step
  while (num_missing > 0) {
    std::size_t largest = 0;
    for (std::size_t run = 1; run < runs_.size(); ++run) {
      if (spare_pairs(run) > spare_pairs(largest)) largest = run;
    }
    const std::uint64_t added = std::min(num_missing, spare_pairs(largest));
    const Run old = runs_[largest];
    const std::uint64_t count = num_batches_of(largest) + added;
    const std::uint64_t num_pairs = num_batches_of(largest) * old.num_pairs;
    const std::uint64_t num_larger = num_pairs % count;
    const std::uint64_t smaller = num_pairs / count;
    std::vector<Run> pieces;
    if (num_larger > 0) pieces.push_back({old.first_batch, old.begin, smaller + 1});
    pieces.push_back(
        {old.first_batch + num_larger, old.begin + num_larger * (smaller + 1), smaller});
    const auto at = runs_.begin() + static_cast<std::ptrdiff_t>(largest);
    for (auto run = at + 1; run != runs_.end(); ++run) run->first_batch += added;
    runs_.insert(runs_.erase(at), pieces.begin(), pieces.end());
    num_batches_ += added;
    num_missing -= added;
  }
}

/// How many more batches a run could be split into.
std::uint64_t BatchPlan::spare_pairs(std::size_t run) const noexcept {
  return num_batches_of(run) * (runs_[run].num_pairs - 1);
}

std::uint64_t BatchPlan::num_batches_of(std::size_t run) const noexcept {
  const std::uint64_t end = run + 1 < runs_.size() ? runs_[run + 1].first_batch : num_batches_;
  return end - runs_[run].first_batch;
}

std::uint64_t BatchPlan::num_steps() const noexcept {
  return divide_up(num_batches_, static_cast<std::uint64_t>(options_.world_size));
}

std::uint64_t BatchPlan::num_batches(std::int64_t rank) const noexcept {
  const auto world_size = static_cast<std::uint64_t>(options_.world_size);
  const std::uint64_t left = num_batches_ % world_size;
  return num_batches_ / world_size + (static_cast<std::uint64_t>(rank) < left ? 1 : 0);
}

std::optional<std::uint64_t> BatchPlan::batch_at(Epoch epoch, std::uint64_t step,
                                                 std::int64_t rank) const noexcept {
  std::uint64_t group = step;
  if (epoch.seed) {
    constexpr std::uint64_t kGroups = ~std::uint64_t{0};  // equals no position in the order
    group = Permutation(key(epoch, kGroups), num_steps())(step);
  }
  const std::uint64_t batch =
      group * static_cast<std::uint64_t>(options_.world_size) + static_cast<std::uint64_t>(rank);
  if (batch >= num_batches_) return std::nullopt;
  return batch;
}

void BatchPlan::pairs(Epoch epoch, std::uint64_t batch, std::vector<std::int64_t>& ids) const {
  const auto after = std::upper_bound(
      runs_.begin(), runs_.end(), batch,
      [](std::uint64_t number, const Run& run) { return number < run.first_batch; });
  const Run& run = *(after - 1);
  const std::uint64_t begin = run.begin + (batch - run.first_batch) * run.num_pairs;
  const std::uint64_t end = begin + run.num_pairs;

  ids.resize(run.num_pairs);
  std::int64_t* id = ids.data();
  std::size_t cell = order_->cell_at(begin);
  for (std::uint64_t position = begin; position < end; ++cell) {
    const std::uint64_t cell_begin = order_->cells()[cell].begin;
    const std::uint64_t cell_end = order_->end(cell);
    const std::uint64_t count = std::min(end, cell_end) - position;
    if (epoch.seed) {
      const Permutation permute(key(epoch, cell_begin), cell_end - cell_begin);
      permute.apply(position - cell_begin, count, cell_begin, id);
    } else {
      std::iota(id, id + count, static_cast<std::int64_t>(position));
    }
    position += count;
    id += count;
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (i + kPrefetchAhead < ids.size()) {
      order_->prefetch(static_cast<std::uint64_t>(ids[i + kPrefetchAhead]));
    }
    ids[i] = order_->pair(static_cast<std::uint64_t>(ids[i]));
  }
}

std::uint64_t BatchPlan::max_bytes() const noexcept {
  std::uint64_t max_pairs = 0;
  for (const Run& run : runs_) max_pairs = std::max(max_pairs, run.num_pairs);
  constexpr std::uint64_t kNumberBytes = 8;
  constexpr std::uint64_t kGaps =
      5 * 64 + 2 * kNumberBytes;  // between tensors, and for the last boundaries
  return kNumberBytes * (2 * static_cast<std::uint64_t>(options_.batch_tokens) + 2 * max_pairs) +
         kGaps;
}

}  // namespace pycat
