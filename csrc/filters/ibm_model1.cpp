#include "filters/ibm_model1.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/int_math.h"
#include "base/worker_threads.h"

namespace pycat {
namespace {

// Of a longer side the first so many tokens count: cost grows with the product of both sides.
constexpr std::int32_t kMaxTokens = 128;
// Of so many pairs, of no more tokens than those, one still makes 2^9 quanta: the largest compute_posteriors of
// a token is never rounded to none.
constexpr std::int64_t kMaxSampleLimit = std::int64_t{1} << 22;
constexpr int kMinCellBits = 10;
constexpr int kMaxCellBits = 31;
constexpr std::int64_t kTaskPairs = 256;
constexpr std::int64_t kTaskCells = 1 << 16;
constexpr std::size_t kBatch = 64;  // additions under one lock: all parts' fit the nearest cache
constexpr std::size_t kPrefetchAhead = 16;
constexpr std::int64_t kMaxThreads = 4096;
// So that few token pairs compute_posteriors a cell where memory allows.
constexpr std::int64_t kCellsPerTokenPair = 8;
constexpr int kCountBits = 40;
constexpr std::uint64_t kCountMask = (std::uint64_t{1} << kCountBits) - 1;
constexpr float kMaxQuanta = 1 << 24;  // to one: whole numbers of a float
constexpr float kFloor = 1e-7F;
constexpr float kMinTotal = 1e-3F;
constexpr std::size_t kHugePage = std::size_t{1} << 21;

/// A float without its sign, rounded to 24 bits, in the place of the round previous.
std::uint64_t as_previous(float count) noexcept {
  std::uint32_t bits;
  std::memcpy(&bits, &count, sizeof bits);
  return (std::uint64_t{bits} + 0x40) >> 7 << kCountBits;
}

float previous(std::uint64_t count) noexcept {
  const auto bits = static_cast<std::uint32_t>(count >> kCountBits << 7);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float current(std::uint64_t count) noexcept {
  return static_cast<float>(static_cast<std::int64_t>(count & kCountMask));
}

std::uint64_t load(const std::atomic<std::uint64_t>& count) noexcept {
  return count.load(std::memory_order_relaxed);
}

float inverse(float total) noexcept { return total > 0 ? 1 / total : 0; }

void increase(std::array<std::atomic<std::uint64_t>, 2>& cell, std::uint32_t first,
              std::uint32_t second) noexcept {
  cell[0].store(load(cell[0]) + first, std::memory_order_relaxed);
  cell[1].store(load(cell[1]) + second, std::memory_order_relaxed);
}

void require_between(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (least <= value && value <= most) return;
  throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + ", expected " +
                              std::to_string(least) + " to " + std::to_string(most));
}

/// Tokens that count: not EOS, which ends every sequence.
std::int32_t num_counted(std::int32_t length) noexcept { return std::min(length - 1, kMaxTokens); }

/// Tokens are accounted for that are twice as likely beside the other side as they are anywhere,
/// and one that is not counts for no more than this.
constexpr float kLog2 = 0.69314718F;
constexpr float kMaxTokenGap = 2.0F;

/// What a side comes to, of the log ratios of its tokens in their order.
SideScores side_scores(const float* ratios, std::size_t num_tokens) noexcept {
  float sum = 0;
  float run = 0;
  float gap = 0;
  for (std::size_t i = 0; i < num_tokens; ++i) {
    sum += ratios[i];
    run = std::max(run + std::min(kLog2 - ratios[i], kMaxTokenGap), 0.0F);
    gap = std::max(gap, run);
  }
  return {sum / static_cast<float>(std::max<std::size_t>(num_tokens, 1)), gap};
}

}  // namespace

/// The cells of a pair: of its tokens, and of token pairs, a row of targets for each source token.
struct IbmModel1::Pair {
  std::array<std::size_t, 2> length;
  std::array<std::array<std::uint32_t, kMaxTokens>, 2> tokens;
  std::array<std::uint32_t, kMaxTokens * kMaxTokens> cells;
};

/// How the tokens of a pair, of side 0 or 1, are shared out among those that may compute_probabilities them:
/// first as floats, then in whole quanta.
struct IbmModel1::Posteriors {
  std::array<std::array<float, kMaxTokens * kMaxTokens>, 2> probability;
  std::array<std::array<std::uint32_t, kMaxTokens * kMaxTokens>, 2> quanta;
  std::array<std::array<float, kMaxTokens>, 2> null_probability;
  std::array<std::array<std::uint32_t, kMaxTokens>, 2> null_quanta;
  std::array<std::array<float, kMaxTokens>, 2> sums;

  /// For a pair that has not been counted.
  void clear(const Pair& pair) noexcept {
    for (std::size_t side = 0; side < 2; ++side) {
      std::fill_n(quanta[side].begin(), pair.length[0] * pair.length[1], 0);
      std::fill_n(null_quanta[side].begin(), pair.length[side], 0);
    }
  }
};

/// What one thread has yet to add, for each part of the cells.
struct IbmModel1::Pending {
  struct Addition {
    std::uint32_t cell;
    std::uint32_t first;
    std::uint32_t second;
  };
  std::array<std::size_t, kParts> size{};
  std::array<std::array<Addition, kBatch>, kParts> additions;
};

/// Of one thread.
struct IbmModel1::Workspace {
  Workspace() {}  // leaves arrays alone, of which short pairs touch little

  std::vector<std::int64_t> ids;
  std::array<std::vector<Slice>, 2> slices;
  std::array<std::vector<std::int32_t>, 2> tokens;
  std::array<std::vector<std::int32_t>, 2> begins;
  std::array<Pair, 2> pairs;
  Posteriors posteriors;
  Pending pending;
};

IbmModel1::IbmModel1(std::shared_ptr<const IndexedFile> src,
                           std::shared_ptr<const IndexedFile> tgt, const std::int64_t* ids,
                           std::int64_t num_pairs, Options options)
    : ids_(ids),
      num_pairs_(num_pairs),
      num_sampled_(std::min(num_pairs, options.max_sample)),
      num_threads_(options.num_threads) {
  require_pairs(*src, *tgt);
  require_between("max_sample", options.max_sample, 1, kMaxSampleLimit);
  require_between("max_cells", options.max_cells, 1 << kMinCellBits,
                  std::int64_t{1} << kMaxCellBits);
  require_between("num_threads", options.num_threads, 1, kMaxThreads);
  sides_[0].file = std::move(src);
  sides_[1].file = std::move(tgt);
  for (Side& side : sides_) {
    if (!side.file->vocab_size()) {
      throw std::invalid_argument(side.file->prefix().string() +
                                  " was opened without a vocab_size, which bounds its token ids; "
                                  "open it with one");
    }
    side.frequency.reset(
        new std::atomic<std::uint32_t>[static_cast<std::size_t>(*side.file->vocab_size())]());
  }
  reserve_cells(options.max_cells, measure_sample());
}

/// Counts tokens of the sample and how often a token stands beside another.
std::int64_t IbmModel1::measure_sample() {
  std::int64_t num_token_pairs = 0;
  for (const Side& side : sides_) side.file->require_verified();
  for (std::int64_t i = 0; i < num_sampled_; ++i) {
    const std::int64_t pair = id(sampled_row(i));
    std::int64_t product = 1;
    for (Side& side : sides_) {
      side.file->require_ids(&pair, 1);
      const std::int32_t length = num_counted(side.file->length(static_cast<std::uint64_t>(pair)));
      side.num_sampled_tokens += length;
      product *= length;
    }
    num_token_pairs += product;
  }
  return num_token_pairs;
}

void IbmModel1::reserve_cells(std::int64_t max_cells, std::int64_t num_token_pairs) {
  // No count can exceed the tokens of its side, each rounded up to no more than two.
  const std::int64_t most = std::max(sides_[0].num_sampled_tokens, sides_[1].num_sampled_tokens);
  while (quanta_per_count_ < kMaxQuanta &&
         4 * quanta_per_count_ * static_cast<float>(most + 1) <= static_cast<float>(kCountMask)) {
    quanta_per_count_ *= 2;
  }
  cell_bits_ = kMinCellBits;
  while (2 * num_cells() <= max_cells && num_cells() < kCellsPerTokenPair * num_token_pairs) ++cell_bits_;
  num_cells_ = num_cells();
  for (Side& side : sides_) {
    side.first_cell = num_cells_;
    num_cells_ += *side.file->vocab_size();
  }
  ++num_cells_;
  require_between("the number of cells and token ids", num_cells_, 1,
                  std::numeric_limits<std::uint32_t>::max());
  while ((num_cells_ - 1) >> part_bits_ >= kParts) ++part_bits_;
  const std::size_t num_bytes = static_cast<std::size_t>(num_cells_) * sizeof(Cell);
  const std::size_t rounded = round_up(num_bytes, kHugePage);
  void* memory = std::aligned_alloc(kHugePage, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  // Small pages would cost a page walk for every cell. Where the kernel has no others, so be it.
  static_cast<void>(::madvise(memory, rounded, MADV_HUGEPAGE));
  cells_.reset(static_cast<Cell*>(memory));
  for_each_cell([](Cell& cell) { new (&cell) Cell{{{as_previous(1)}, {as_previous(1)}}}; });
}

/// The sample is spread evenly.
std::int64_t IbmModel1::sampled_row(std::int64_t place) const noexcept {
  return place * num_pairs_ / num_sampled_;
}

bool IbmModel1::is_sampled(std::int64_t row) const noexcept {
  const std::int64_t place = divide_up(row * num_sampled_, num_pairs_);
  return place < num_sampled_ && sampled_row(place) == row;
}

template <typename Work>
void IbmModel1::for_each_cell(const Work& work) const {
  run_tasks(divide_up(num_cells_, kTaskCells), num_threads_, [&](std::int64_t task, std::int64_t) {
    const std::int64_t end = std::min(num_cells_, (task + 1) * kTaskCells);
    for (std::int64_t i = task * kTaskCells; i < end; ++i) {
      work(cells_[static_cast<std::size_t>(i)]);
    }
  });
}

/// Calls work(row, pair, workspace) for rows row_of(begin) to row_of(end - 1), on all threads.
template <typename RowOf, typename Work>
void IbmModel1::for_each_pair(std::int64_t begin, std::int64_t end,
                                 std::vector<Workspace>& workspaces, const RowOf& row_of,
                                 const Work& work) const {
  const std::int64_t num_tasks = divide_up(end - begin, kTaskPairs);
  workspaces = std::vector<Workspace>(static_cast<std::size_t>(std::min(num_threads_, num_tasks)));
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(num_tasks));
  run_tasks(num_tasks, num_threads_, [&](std::int64_t task, std::int64_t worker) {
    try {
      Workspace& workspace = workspaces[static_cast<std::size_t>(worker)];
      const std::int64_t first = begin + task * kTaskPairs;
      const auto num_rows = static_cast<std::size_t>(std::min(kTaskPairs, end - first));
      workspace.ids.resize(num_rows);
      for (std::size_t i = 0; i < num_rows; ++i) {
        workspace.ids[i] = id(row_of(first + static_cast<std::int64_t>(i)));
      }
      read(workspace);
      // The cells of the next pair are on their way while this one's are used.
      locate_cells(workspace, 0, workspace.pairs[0]);
      for (std::size_t i = 0; i < num_rows; ++i) {
        if (i + 1 < num_rows) locate_cells(workspace, i + 1, workspace.pairs[(i + 1) % 2]);
        work(row_of(first + static_cast<std::int64_t>(i)), workspace.pairs[i % 2], workspace);
      }
    } catch (...) {
      failures[static_cast<std::size_t>(task)] = std::current_exception();
    }
  });
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

/// The tokens of `ids` that count, checked against the vocabulary.
void IbmModel1::read(Workspace& workspace) const {
  for (std::size_t side = 0; side < 2; ++side) {
    std::vector<Slice>& slices = workspace.slices[side];
    std::vector<std::int32_t>& begins = workspace.begins[side];
    slices.clear();
    sides_[side].file->locate(workspace.ids.data(), workspace.ids.size(), slices);
    begins.assign(1, 0);
    for (Slice& slice : slices) {
      slice.length = num_counted(slice.length);
      begins.push_back(begins.back() + slice.length);
    }
    workspace.tokens[side].resize(static_cast<std::size_t>(begins.back()));
    sides_[side].file->copy(slices, {0, 0}, OutputType::kInt32, workspace.tokens[side].data(),
                            workspace.tokens[side].size());
  }
}

/// Where the cells of the pair `i` of those read are; they are asked for, too.
void IbmModel1::locate_cells(const Workspace& workspace, std::size_t i, Pair& pair) const {
  std::array<std::array<std::uint32_t, kMaxTokens>, 2> hashes;
  for (std::size_t side = 0; side < 2; ++side) {
    const auto begin = static_cast<std::size_t>(workspace.begins[side][i]);
    pair.length[side] = static_cast<std::size_t>(workspace.begins[side][i + 1]) - begin;
    for (std::size_t j = 0; j < pair.length[side]; ++j) {
      const auto token = static_cast<std::uint64_t>(workspace.tokens[side][begin + j]);
      pair.tokens[side][j] =
          static_cast<std::uint32_t>(static_cast<std::uint64_t>(sides_[side].first_cell) + token);
      __builtin_prefetch(&cells_[pair.tokens[side][j]], 1);
      // Tokens 2n and 2n + 1 are neighbours in the table: pieces are numbered by frequency, so
      // cells of frequent ones fill whole cache lines (scoring a pair of 583 cells: 4.3 us instead
      // of 5).
      const std::uint64_t block = mix_bits((token & ~std::uint64_t{1}) + side);
      hashes[side][j] = static_cast<std::uint32_t>((block << 2 | (token & 1) << side) &
                                                   ((std::uint64_t{1} << cell_bits_) - 1));
    }
  }
  std::size_t cell = 0;
  for (std::size_t x = 0; x < pair.length[0]; ++x) {
    for (std::size_t y = 0; y < pair.length[1]; ++y, ++cell) {
      pair.cells[cell] = hashes[0][x] ^ hashes[1][y];
      __builtin_prefetch(&cells_[pair.cells[cell]], 1);
    }
  }
}

/// Posteriors every token of the pair out by the probabilities of the round previous.
void IbmModel1::compute_posteriors(const Pair& pair, Posteriors& posteriors) const noexcept {
  std::array<std::array<float, kMaxTokens>, 2> inverse_totals;
  const Cell& null = cells_[static_cast<std::size_t>(num_cells_ - 1)];
  for (std::size_t side = 0; side < 2; ++side) {
    const float inverse_null_total = inverse(previous(load(null[side])));
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      const Cell& token = cells_[pair.tokens[side][i]];
      inverse_totals[side][i] = inverse(previous(load(token[1])));
      posteriors.null_probability[side][i] = previous(load(token[0])) * inverse_null_total;
      posteriors.sums[side][i] = posteriors.null_probability[side][i];
    }
  }
  for (std::size_t x = 0, i = 0; x < pair.length[0]; ++x) {
    float sum = posteriors.sums[0][x];
    for (std::size_t y = 0; y < pair.length[1]; ++y, ++i) {
      const Cell& cell = cells_[pair.cells[i]];
      posteriors.probability[0][i] = previous(load(cell[0])) * inverse_totals[1][y];
      posteriors.probability[1][i] = previous(load(cell[1])) * inverse_totals[0][x];
      sum += posteriors.probability[0][i];
      posteriors.sums[1][y] += posteriors.probability[1][i];
    }
    posteriors.sums[0][x] = sum;
  }
  const auto quanta = [](float probability, float factor) {
    return static_cast<std::uint32_t>(static_cast<std::int32_t>(probability * factor + 0.5F));
  };
  for (std::size_t side = 0; side < 2; ++side) {
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      float& factor = posteriors.sums[side][i];
      factor = quanta_per_count_ * inverse(factor);
      posteriors.null_quanta[side][i] = quanta(posteriors.null_probability[side][i], factor);
    }
  }
  for (std::size_t x = 0, i = 0; x < pair.length[0]; ++x) {
    for (std::size_t y = 0; y < pair.length[1]; ++y, ++i) {
      posteriors.quanta[0][i] = quanta(posteriors.probability[0][i], posteriors.sums[0][x]);
      posteriors.quanta[1][i] = quanta(posteriors.probability[1][i], posteriors.sums[1][y]);
    }
  }
}

void IbmModel1::add(const Pair& pair, const Posteriors& posteriors, Pending& pending) noexcept {
  // A token explains all tokens of the other side.
  std::array<std::array<std::uint32_t, kMaxTokens>, 2> totals{};
  for (std::size_t x = 0, i = 0; x < pair.length[0]; ++x) {
    for (std::size_t y = 0; y < pair.length[1]; ++y, ++i) {
      add(pair.cells[i], posteriors.quanta[0][i], posteriors.quanta[1][i], pending);
      totals[0][x] += posteriors.quanta[1][i];
      totals[1][y] += posteriors.quanta[0][i];
    }
  }
  std::array<std::uint32_t, 2> null_totals{};
  for (std::size_t side = 0; side < 2; ++side) {
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      add(pair.tokens[side][i], posteriors.null_quanta[side][i], totals[side][i], pending);
      null_totals[side] += posteriors.null_quanta[side][i];
      if (is_first_round_) {
        const auto token = pair.tokens[side][i] - static_cast<std::size_t>(sides_[side].first_cell);
        sides_[side].frequency[token].fetch_add(1, std::memory_order_relaxed);
      }
    }
  }
  add(static_cast<std::uint32_t>(num_cells_ - 1), null_totals[0], null_totals[1], pending);
}

/// Alone at once; otherwise later, many under one lock: an atomic addition each would take longer
/// than all the rest.
void IbmModel1::add(std::uint32_t cell, std::uint32_t first, std::uint32_t second,
                       Pending& pending) noexcept {
  if (num_threads_ == 1) {
    increase(cells_[cell], first, second);
    return;
  }
  const std::size_t part = cell >> part_bits_;
  pending.additions[part][pending.size[part]++] = {cell, first, second};
  if (pending.size[part] == kBatch) {
    const std::lock_guard<std::mutex> lock(locks_[part]);
    apply(pending, part);
  }
}

void IbmModel1::apply(Pending& pending, std::size_t part) noexcept {
  const auto& additions = pending.additions[part];
  const std::size_t size = std::exchange(pending.size[part], 0);
  for (std::size_t i = 0; i < size; ++i) {
    if (i + kPrefetchAhead < size) {
      __builtin_prefetch(&cells_[additions[i + kPrefetchAhead].cell], 1);
    }
    increase(cells_[additions[i].cell], additions[i].first, additions[i].second);
  }
}

/// A token that stands more than once in a pair was counted as often: all of that goes out
/// together.
void IbmModel1::merge_repeated(const Pair& pair, Posteriors& posteriors) noexcept {
  std::array<std::array<std::uint8_t, kMaxTokens>, 2> first;
  bool repeats = false;
  for (std::size_t side = 0; side < 2; ++side) {
    const auto tokens = pair.tokens[side].begin();
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      first[side][i] = static_cast<std::uint8_t>(std::find(tokens, tokens + i, tokens[i]) - tokens);
      repeats |= first[side][i] < i;
    }
  }
  if (!repeats) return;
  constexpr std::uint32_t kMost = std::numeric_limits<std::int32_t>::max();  // that `compute_probabilities` takes
  for (std::size_t side = 0; side < 2; ++side) {
    auto& quanta = posteriors.null_quanta[side];
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      if (first[side][i] < i) quanta[first[side][i]] += quanta[i];
    }
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      quanta[i] = std::min(quanta[first[side][i]], kMost);
    }
  }
  const auto for_each = [&](auto visit) {
    for (std::size_t x = 0, i = 0; x < pair.length[0]; ++x) {
      for (std::size_t y = 0; y < pair.length[1]; ++y, ++i) {
        visit(i, std::size_t{first[0][x]} * pair.length[1] + first[1][y]);
      }
    }
  };
  for (auto& quanta : posteriors.quanta) {
    for_each([&](std::size_t i, std::size_t at) {
      if (at < i) quanta[at] += quanta[i];
    });
    for_each([&](std::size_t i, std::size_t at) { quanta[i] = std::min(quanta[at], kMost); });
  }
}

/// Writes to `sums` how likely each token is by the counts of this round, those of the pair itself
/// taken out: the sum over all that may compute_probabilities it.
void IbmModel1::compute_probabilities(const Pair& pair, Posteriors& posteriors) const noexcept {
  const float least = kMinTotal * quanta_per_count_;
  const auto probability = [least](const Count& count, float total, std::uint32_t workspace) {
    const auto out = static_cast<float>(static_cast<std::int32_t>(workspace));
    return (current(load(count)) - out) / std::max(total - out, least);
  };
  std::array<std::array<float, kMaxTokens>, 2> totals;
  const Cell& null = cells_[static_cast<std::size_t>(num_cells_ - 1)];
  for (std::size_t side = 0; side < 2; ++side) {
    const float null_total = current(load(null[side]));
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      const Cell& token = cells_[pair.tokens[side][i]];
      totals[side][i] = current(load(token[1]));
      posteriors.sums[side][i] = probability(token[0], null_total, posteriors.null_quanta[side][i]);
    }
  }
  for (std::size_t x = 0, i = 0; x < pair.length[0]; ++x) {
    float sum = posteriors.sums[0][x];
    for (std::size_t y = 0; y < pair.length[1]; ++y, ++i) {
      const Cell& cell = cells_[pair.cells[i]];
      sum += probability(cell[0], totals[1][y], posteriors.quanta[0][i]);
      posteriors.sums[1][y] += probability(cell[1], totals[0][x], posteriors.quanta[1][i]);
    }
    posteriors.sums[0][x] = sum;
  }
}

void IbmModel1::count(std::int64_t begin, std::int64_t end) {
  std::vector<Workspace> workspaces;
  for_each_pair(
      begin, end, workspaces, [this](std::int64_t place) { return sampled_row(place); },
      [this](std::int64_t, const Pair& pair, Workspace& workspace) {
        compute_posteriors(pair, workspace.posteriors);
        add(pair, workspace.posteriors, workspace.pending);
      });
  run_tasks(kParts, num_threads_, [&](std::int64_t part, std::int64_t) {
    for (Workspace& workspace : workspaces) {
      apply(workspace.pending, static_cast<std::size_t>(part));
    }
  });
}

void IbmModel1::start_round() {
  is_first_round_ = false;
  for_each_cell([](Cell& cell) {
    for (Count& count : cell) {
      count.store(as_previous(current(load(count))), std::memory_order_relaxed);
    }
  });
}

void IbmModel1::score(std::int64_t begin, std::int64_t end, SideScores* tgt,
                         SideScores* src) const {
  const std::array<SideScores*, 2> results{src, tgt};
  std::array<float, 2> num_tokens;
  for (std::size_t side = 0; side < 2; ++side) {
    num_tokens[side] =
        static_cast<float>(sides_[side].num_sampled_tokens + *sides_[side].file->vocab_size());
  }
  std::vector<Workspace> workspaces;
  for_each_pair(
      begin, end, workspaces, [](std::int64_t row) { return row; },
      [&](std::int64_t row, const Pair& pair, Workspace& workspace) {
        if (is_sampled(row)) {
          compute_posteriors(pair, workspace.posteriors);
          merge_repeated(pair, workspace.posteriors);
        } else {
          workspace.posteriors.clear(pair);
        }
        compute_probabilities(pair, workspace.posteriors);
        for (std::size_t side = 0; side < 2; ++side) {
          const auto num_given = static_cast<float>(pair.length[1 - side] + 1);
          auto& ratios = workspace.posteriors.sums[side];
          for (std::size_t i = 0; i < pair.length[side]; ++i) {
            const auto token =
                pair.tokens[side][i] - static_cast<std::size_t>(sides_[side].first_cell);
            const auto frequency = static_cast<float>(
                sides_[side].frequency[token].load(std::memory_order_relaxed) + 1U);
            ratios[i] =
                std::log(std::max(ratios[i] / num_given, kFloor) * num_tokens[side] / frequency);
          }
          results[side][row - begin] = side_scores(ratios.data(), pair.length[side]);
        }
      });
}

}  // namespace pycat
