#include "filters/ngram_coverage.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "base/hash.h"
#include "base/int_math.h"
#include "base/worker_threads.h"

namespace pycat {
namespace {

constexpr std::int32_t kMaxTokens = 128;  // of a side
constexpr std::size_t kMaxOrder = 3;
constexpr std::size_t kTaskPairs = 256;
// Pairs that are read and kept together: their cells take some 2 MB.
constexpr std::size_t kBatchPairs = 4096;
constexpr std::size_t kHugePage = std::size_t{1} << 21;

/// Zeroed cells, on huge pages where the system has them: nearly each read is of another page, and
/// 512 MB of small ones do not fit in the tables that find pages.
std::atomic<std::uint32_t>* make_cells(std::size_t count) {
  const std::size_t size = (count * sizeof(std::uint32_t) + kHugePage - 1) / kHugePage * kHugePage;
  void* memory = std::aligned_alloc(kHugePage, size);
  if (memory == nullptr) throw std::bad_alloc{};
#if defined(__linux__)
  madvise(memory, size, MADV_HUGEPAGE);  // advice: without it, the cells are slower
#endif
  auto* cells = static_cast<std::atomic<std::uint32_t>*>(memory);
  for (std::size_t i = 0; i < count; ++i) new (cells + i) std::atomic<std::uint32_t>{0};
  return cells;
}

std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// Sorts cells, which are evenly spread over 2^bits: by their first eight bits, after which hardly
/// any is out of place.
void sort_cells(std::vector<std::uint32_t>& cells, int bits, std::vector<std::uint32_t>& scratch) {
  const int shift = std::max(0, bits - 8);
  std::array<std::uint32_t, 257> begins{};
  for (const std::uint32_t cell : cells) ++begins[(cell >> shift) + 1];
  for (std::size_t i = 1; i < begins.size(); ++i) begins[i] += begins[i - 1];
  scratch.resize(cells.size());
  for (const std::uint32_t cell : cells) scratch[begins[cell >> shift]++] = cell;
  for (std::size_t i = 1; i < scratch.size(); ++i) {
    const std::uint32_t cell = scratch[i];
    std::size_t place = i;
    for (; place > 0 && scratch[place - 1] > cell; --place) scratch[place] = scratch[place - 1];
    scratch[place] = cell;
  }
  cells.swap(scratch);
}

/// Whether `a` comes after `b`: lower gains come later, and of equal gains the higher row.
struct ComesAfter {
  template <typename A, typename B>
  bool operator()(const A& a, const B& b) const noexcept {
    return a.gain != b.gain ? a.gain < b.gain : a.row > b.row;
  }
};

}  // namespace

/// One thread's memory: the tokens of a few pairs.
struct NgramCoverage::Workspace {
  std::vector<std::int64_t> ids;
  std::array<std::vector<Slice>, 2> slices;
  std::array<std::vector<std::int32_t>, 2> tokens;
  std::array<std::vector<std::int32_t>, 2> begins;
  Features features;
  Features next;
  std::vector<std::uint32_t> scratch;
};

NgramCoverage::NgramCoverage(std::shared_ptr<const IndexedFile> src,
                             std::shared_ptr<const IndexedFile> tgt, const std::int64_t* ids,
                             std::int64_t num_pairs, Options options)
    : sides_{std::move(src), std::move(tgt)},
      ids_(ids),
      num_pairs_(num_pairs),
      num_threads_(options.num_threads),
      decay_(static_cast<float>(options.decay)),
      least_share_(static_cast<float>(1 - options.tolerance)),
      cell_bits_(0) {
  require_pairs(*sides_[0], *sides_[1]);
  if (num_pairs < 1 || num_pairs > std::numeric_limits<std::uint32_t>::max()) {
    throw std::invalid_argument("found " + std::to_string(num_pairs) +
                                " pairs, expected 1 to 4,294,967,295");
  }
  if (!(options.decay > 0 && options.decay < 1)) {
    throw std::invalid_argument("decay is " + std::to_string(options.decay) +
                                ", expected a number between 0 and 1");
  }
  if (!(options.tolerance >= 0 && options.tolerance < 1)) {
    throw std::invalid_argument("tolerance is " + std::to_string(options.tolerance) +
                                ", expected a number from 0 to below 1");
  }
  if (options.num_threads < 1) {
    throw std::invalid_argument("num_threads is " + std::to_string(options.num_threads) +
                                ", expected at least 1");
  }
  while (cell_bits_ < 31 && (std::int64_t{1} << cell_bits_) < options.num_cells) ++cell_bits_;
  if (options.num_cells != std::int64_t{1} << cell_bits_ || cell_bits_ < 4) {
    throw std::invalid_argument("num_cells is " + std::to_string(options.num_cells) +
                                ", expected a power of two from 16 to 2,147,483,648");
  }
  for (const auto& side : sides_) {
    side->require_verified();
    side->require_ids(ids, static_cast<std::size_t>(num_pairs));
  }
  cells_.reset(make_cells(static_cast<std::size_t>(options.num_cells)));
  gains_.assign(static_cast<std::size_t>(num_pairs), -1.0f);
}

void NgramCoverage::count(std::int64_t begin, std::int64_t end) {
  std::vector<std::uint32_t> rows;
  for (std::int64_t row = begin; row < end; ++row) rows.push_back(static_cast<std::uint32_t>(row));
  for_each_pair(rows, [&](std::size_t, const Features& features) {
    for (const std::uint32_t cell : features.cells) {
      cells_[cell].fetch_add(1, std::memory_order_relaxed);
    }
  });
}

void NgramCoverage::weigh() {
  const auto num_cells = std::int64_t{1} << cell_bits_;
  constexpr std::int64_t kShare = 1 << 16;
  const auto pool = static_cast<double>(num_pairs_);
  run_tasks(divide_up(num_cells, kShare), num_threads_, [&](std::int64_t task, std::int64_t) {
    const std::int64_t end = std::min(num_cells, (task + 1) * kShare);
    for (std::int64_t cell = task * kShare; cell < end; ++cell) {
      const std::uint32_t count = cells_[cell].load(std::memory_order_relaxed);
      const double weight = count == 0 ? 0.0 : std::max(0.0, std::log(pool / count));
      cells_[cell].store(bits_of(static_cast<float>(weight)), std::memory_order_relaxed);
    }
  });
}

void NgramCoverage::measure(std::int64_t begin, std::int64_t end, float* gains) {
  std::vector<std::uint32_t> rows;
  for (std::int64_t row = begin; row < end; ++row) {
    const float at_choice = gains_[static_cast<std::size_t>(row)];
    gains[row - begin] = at_choice;
    if (at_choice < 0) rows.push_back(static_cast<std::uint32_t>(row));
  }
  for_each_pair(rows, [&](std::size_t i, const Features& features) {
    gains[rows[i] - begin] = gain(features);
  });
}

std::vector<std::int64_t> NgramCoverage::choose(std::int64_t max_chosen) {
  if (!has_bounds_) fill_bounds();
  std::vector<std::int64_t> chosen;
  while (static_cast<std::int64_t>(chosen.size()) < max_chosen) {
    if (batch_.empty() && bounds_.empty()) break;
    // A bound in the heap may hide a pair that is better than the best of the batch.
    if (batch_.empty() || (!bounds_.empty() && is_beaten(batch_.front(), bounds_.front()))) {
      refill();
    }
    std::pop_heap(batch_.begin(), batch_.end(), ComesAfter{});
    Place best = batch_.back();
    const Features& features = features_[best.place];
    if (best.as_of < num_chosen_) {
      const float bound = best.gain;
      best.gain = gain(features);
      best.as_of = num_chosen_;
      if (least_share_ == 1 || best.gain < least_share_ * bound) {
        batch_.back() = best;
        std::push_heap(batch_.begin(), batch_.end(), ComesAfter{});
        continue;
      }
    }
    batch_.pop_back();
    decay(features);
    // Within the tolerance a later pair may gain more; the gains that are told fall all the same.
    last_gain_ = num_chosen_ == 0 ? best.gain : std::min(last_gain_, best.gain);
    gains_[best.row] = last_gain_;
    ++num_chosen_;
    chosen.push_back(best.row);
  }
  return chosen;
}

/// Whether a pair of the batch is too far below a bound in the heap to be chosen before it.
bool NgramCoverage::is_beaten(const Place& place, const Candidate& bound) const noexcept {
  if (least_share_ == 1) return ComesAfter{}(place, bound);
  return place.gain < least_share_ * bound.gain;
}

/// Measures all pairs, which are bounds from then on.
void NgramCoverage::fill_bounds() {
  std::vector<std::uint32_t> rows(static_cast<std::size_t>(num_pairs_));
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::uint32_t>(i);
  bounds_.resize(rows.size());
  for_each_pair(rows, [&](std::size_t i, const Features& features) {
    bounds_[i] = {gain(features), rows[i]};
  });
  std::make_heap(bounds_.begin(), bounds_.end(), ComesAfter{});
  has_bounds_ = true;
}

/// Puts the batch back into the heap, and takes the pairs of the highest bounds, measured anew.
void NgramCoverage::refill() {
  for (const Place& place : batch_) {
    bounds_.push_back({place.gain, place.row});
    std::push_heap(bounds_.begin(), bounds_.end(), ComesAfter{});
  }
  const std::size_t size = std::min(bounds_.size(), kBatchPairs);
  std::vector<std::uint32_t> rows(size);
  for (std::size_t i = 0; i < size; ++i) {
    std::pop_heap(bounds_.begin(), bounds_.end(), ComesAfter{});
    rows[i] = bounds_.back().row;
    bounds_.pop_back();
  }
  batch_.resize(size);
  features_.resize(std::max(features_.size(), size));
  for_each_pair(rows, [&](std::size_t i, const Features& features) {
    features_[i] = features;
    batch_[i] = {gain(features), rows[i], static_cast<std::uint32_t>(i), num_chosen_};
  });
  std::make_heap(batch_.begin(), batch_.end(), ComesAfter{});
}

/// Calls work(i, features of rows[i]) for every i, on all threads.
template <typename Work>
void NgramCoverage::for_each_pair(const std::vector<std::uint32_t>& rows, const Work& work) {
  const auto num_tasks = static_cast<std::int64_t>(divide_up(rows.size(), kTaskPairs));
  std::vector<Workspace> workspaces(
      static_cast<std::size_t>(std::max<std::int64_t>(1, std::min(num_threads_, num_tasks))));
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(num_tasks));
  run_tasks(num_tasks, num_threads_, [&](std::int64_t task, std::int64_t worker) {
    try {
      Workspace& workspace = workspaces[static_cast<std::size_t>(worker)];
      const std::size_t begin = static_cast<std::size_t>(task) * kTaskPairs;
      const std::size_t end = std::min(rows.size(), begin + kTaskPairs);
      read(rows, begin, end, workspace);
      // The cells of a pair are on their way from memory while those of the one before are used.
      find_cells(workspace, 0, workspace.features);
      for (std::size_t i = begin; i < end; ++i) {
        if (i + 1 < end) {
          find_cells(workspace, i + 1 - begin, workspace.next);
          prefetch(workspace.next);
        }
        work(i, workspace.features);
        std::swap(workspace.features, workspace.next);
      }
    } catch (...) {
      failures[static_cast<std::size_t>(task)] = std::current_exception();
    }
  });
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

/// Reads the tokens that count of rows[begin] to rows[end - 1], checked against the vocabulary.
void NgramCoverage::read(const std::vector<std::uint32_t>& rows, std::size_t begin, std::size_t end,
                         Workspace& workspace) const {
  workspace.ids.clear();
  for (std::size_t i = begin; i < end; ++i) workspace.ids.push_back(ids_[rows[i]]);
  for (std::size_t side = 0; side < 2; ++side) {
    std::vector<Slice>& slices = workspace.slices[side];
    std::vector<std::int32_t>& begins = workspace.begins[side];
    slices.clear();
    sides_[side]->locate(workspace.ids.data(), workspace.ids.size(), slices);
    begins.assign(1, 0);
    for (Slice& slice : slices) {
      slice.length = std::clamp(slice.length - 1, 0, kMaxTokens);
      begins.push_back(begins.back() + slice.length);
    }
    std::vector<std::int32_t>& tokens = workspace.tokens[side];
    tokens.resize(static_cast<std::size_t>(begins.back()));
    sides_[side]->copy(slices, {0, 0}, OutputType::kInt32, tokens.data(), tokens.size());
  }
}

/// The distinct cells of the n-grams of pair `i` of the workspace. Sides and lengths of n-grams
/// have hashes of their own.
void NgramCoverage::find_cells(Workspace& workspace, std::size_t i, Features& features) const {
  features.cells.clear();
  features.num_tokens = 0;
  for (std::size_t side = 0; side < 2; ++side) {
    const std::int32_t begin = workspace.begins[side][i];
    const std::int32_t length = workspace.begins[side][i + 1] - begin;
    features.num_tokens += length;
    const std::int32_t* tokens = workspace.tokens[side].data() + begin;
    for (std::int32_t first = 0; first < length; ++first) {
      std::uint64_t state = mix_bits(1 + side);
      const std::int32_t last = std::min<std::int32_t>(length, first + kMaxOrder);
      for (std::int32_t at = first; at < last; ++at) {
        state = mix_bits(state + static_cast<std::uint64_t>(tokens[at]) + 0x9E3779B97F4A7C15u);
        features.cells.push_back(static_cast<std::uint32_t>(state >> (64 - cell_bits_)));
      }
    }
  }
  sort_cells(features.cells, cell_bits_, workspace.scratch);
  features.cells.erase(std::unique(features.cells.begin(), features.cells.end()),
                       features.cells.end());
}

void NgramCoverage::prefetch(const Features& features) const noexcept {
  for (const std::uint32_t cell : features.cells) __builtin_prefetch(&cells_[cell], 1);
}

float NgramCoverage::gain(const Features& features) const noexcept {
  double sum = 0;
  for (const std::uint32_t cell : features.cells) {
    sum += float_of(cells_[cell].load(std::memory_order_relaxed));
  }
  return features.num_tokens == 0 ? 0.0f : static_cast<float>(sum / features.num_tokens);
}

void NgramCoverage::decay(const Features& features) noexcept {
  for (const std::uint32_t cell : features.cells) {
    const float weight = float_of(cells_[cell].load(std::memory_order_relaxed));
    cells_[cell].store(bits_of(weight * decay_), std::memory_order_relaxed);
  }
}

}  // namespace pycat
