#include "filters/ibm_model1.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/int_math.h"
#include "base/worker_threads.h"

namespace pycat {
namespace {

// The cost of a pair grows with the product of both lengths.
constexpr std::int32_t kMaxTokens = 128;
// With this many pairs of kMaxTokens tokens, a token is still 2^9 quanta: the largest posterior of
// a token is never rounded to 0.
constexpr std::int64_t kMaxSample = std::int64_t{1} << 22;
constexpr int kMinCellBits = 10;
constexpr int kMaxCellBits = 31;
constexpr std::int64_t kMaxThreads = 4096;
constexpr std::int64_t kTaskPairs = 256;
// Where memory allows, so many cells for each token pair of the sample that few share one.
constexpr std::int64_t kCellsPerTokenPair = 8;
constexpr float kMaxQuanta = 1 << 24;  // whole numbers up to this are exact in a float
constexpr float kMinLikelihood = 1e-7F;
constexpr float kMinTotal = 1e-3F;  // tokens

// A token has no part in a gap if it is at least twice as likely given the other side as anywhere.
constexpr float kLog2 = 0.69314718F;
constexpr float kMaxTokenGap = 2.0F;

float inverse(float total) noexcept { return total > 0 ? 1 / total : 0; }

void require_between(const char* name, std::int64_t value, std::int64_t min, std::int64_t max) {
  if (min <= value && value <= max) return;
  throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + ", expected " +
                              std::to_string(min) + " to " + std::to_string(max));
}

/// The number of tokens that count: EOS, which ends every sequence, does not.
std::int32_t num_counted(std::int32_t length) noexcept { return std::min(length - 1, kMaxTokens); }

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

/// The cells of a pair: those of its tokens, and those of its token pairs, source by source.
struct IbmModel1::Pair {
  std::array<std::size_t, 2> length;                            // source, target
  std::array<std::array<std::uint32_t, kMaxTokens>, 2> tokens;  // (side, token)
  std::array<std::uint32_t, kMaxTokens * kMaxTokens> cells;     // (source, target)
};

/// For each token of a pair, the posterior probability of each token of the other side, and of
/// NULL, to be what it translates. Probabilities are first weights, and then whole quanta.
struct IbmModel1::Posteriors {
  std::array<std::array<float, kMaxTokens * kMaxTokens>, 2> weights;  // (side, source, target)
  std::array<std::array<std::uint32_t, kMaxTokens * kMaxTokens>, 2> quanta;
  std::array<std::array<float, kMaxTokens>, 2> null_weights;  // (side, token)
  std::array<std::array<std::uint32_t, kMaxTokens>, 2> null_quanta;
  std::array<std::array<float, kMaxTokens>, 2> sums;  // (side, token) over all that may explain it

  /// Sets the quanta of a pair that has not been counted.
  void clear(const Pair& pair) noexcept {
    for (std::size_t side = 0; side < 2; ++side) {
      std::fill_n(quanta[side].begin(), pair.length[0] * pair.length[1], 0);
      std::fill_n(null_quanta[side].begin(), pair.length[side], 0);
    }
  }
};

/// One thread's memory.
struct IbmModel1::Workspace {
  Workspace() {}  // does not initialise the arrays, of which short pairs need a small part

  std::vector<std::int64_t> ids;
  std::array<std::vector<Slice>, 2> slices;
  std::array<std::vector<std::int32_t>, 2> tokens;
  std::array<std::vector<std::int32_t>, 2> begins;
  std::array<Pair, 2> pairs;
  Posteriors posteriors;
  CountTable::Pending pending;
};

IbmModel1::IbmModel1(std::shared_ptr<const IndexedFile> src, std::shared_ptr<const IndexedFile> tgt,
                     const std::int64_t* ids, std::int64_t num_pairs, Options options)
    : ids_(ids),
      num_pairs_(num_pairs),
      num_sampled_(std::min(num_pairs, options.max_sample)),
      num_threads_(options.num_threads),
      cell_bits_(kMinCellBits) {
  require_pairs(*src, *tgt);
  require_between("max_sample", options.max_sample, 1, kMaxSample);
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

/// Counts the tokens of the sample, and returns the number of its token pairs.
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
  // A count is at most the number of tokens of its side, each rounded up to at most two.
  const std::int64_t max_tokens =
      std::max(sides_[0].num_sampled_tokens, sides_[1].num_sampled_tokens);
  while (quanta_per_token_ < kMaxQuanta &&
         4 * quanta_per_token_ * static_cast<float>(max_tokens + 1) <=
             static_cast<float>(CountTable::kMaxCount)) {
    quanta_per_token_ *= 2;
  }
  while (2 * num_cells() <= max_cells && num_cells() < kCellsPerTokenPair * num_token_pairs) {
    ++cell_bits_;
  }
  std::int64_t num_all_cells = num_cells();
  for (Side& side : sides_) {
    side.first_cell = num_all_cells;
    num_all_cells += *side.file->vocab_size();
  }
  null_cell_ = static_cast<std::size_t>(num_all_cells);
  ++num_all_cells;
  require_between("the number of cells and token ids", num_all_cells, 1,
                  std::numeric_limits<std::uint32_t>::max());
  table_.emplace(num_all_cells, num_threads_);
}

/// The row of the corpus that is pair `place` of the sample, which is spread evenly.
std::int64_t IbmModel1::sampled_row(std::int64_t place) const noexcept {
  return place * num_pairs_ / num_sampled_;
}

bool IbmModel1::is_sampled(std::int64_t row) const noexcept {
  const std::int64_t place = divide_up(row * num_sampled_, num_pairs_);
  return place < num_sampled_ && sampled_row(place) == row;
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
      read_tokens(workspace);
      // The next pair's cells are prefetched while this one's are used.
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

/// Reads the tokens that count of the workspace's ids, checked against the vocabulary.
void IbmModel1::read_tokens(Workspace& workspace) const {
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
    std::vector<std::int32_t>& tokens = workspace.tokens[side];
    tokens.resize(static_cast<std::size_t>(begins.back()));
    sides_[side].file->copy(slices, {0, 0}, OutputType::kInt32, tokens.data(), tokens.size());
  }
}

/// Writes the cells of pair `i` of the workspace to `pair`, and prefetches them.
void IbmModel1::locate_cells(const Workspace& workspace, std::size_t i, Pair& pair) const {
  std::array<std::array<std::uint32_t, kMaxTokens>, 2> hashes;
  for (std::size_t side = 0; side < 2; ++side) {
    const auto begin = static_cast<std::size_t>(workspace.begins[side][i]);
    pair.length[side] = static_cast<std::size_t>(workspace.begins[side][i + 1]) - begin;
    for (std::size_t j = 0; j < pair.length[side]; ++j) {
      const auto token = static_cast<std::uint64_t>(workspace.tokens[side][begin + j]);
      pair.tokens[side][j] =
          static_cast<std::uint32_t>(static_cast<std::uint64_t>(sides_[side].first_cell) + token);
      table_->prefetch(pair.tokens[side][j]);
      // Tokens 2n and 2n + 1 are neighbours in the table. Pieces are numbered by frequency, so
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
      table_->prefetch(pair.cells[cell]);
    }
  }
}

/// Computes the posteriors of a pair by the probabilities of the previous round.
void IbmModel1::compute_posteriors(const Pair& pair, Posteriors& posteriors) const noexcept {
  const CountTable& table = *table_;
  // The weight of an explanation is its probability: its count over the total of what is given.
  std::array<std::array<float, kMaxTokens>, 2> inverse_totals;
  const CountTable::Cell& null = table[null_cell_];
  for (std::size_t side = 0; side < 2; ++side) {
    const float inverse_null_total = inverse(CountTable::previous(null[side]));
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      const CountTable::Cell& token = table[pair.tokens[side][i]];
      inverse_totals[side][i] = inverse(CountTable::previous(token[1]));
      posteriors.null_weights[side][i] = CountTable::previous(token[0]) * inverse_null_total;
      posteriors.sums[side][i] = posteriors.null_weights[side][i];
    }
  }
  for (std::size_t x = 0, i = 0; x < pair.length[0]; ++x) {
    float sum = posteriors.sums[0][x];
    for (std::size_t y = 0; y < pair.length[1]; ++y, ++i) {
      const CountTable::Cell& cell = table[pair.cells[i]];
      posteriors.weights[0][i] = CountTable::previous(cell[0]) * inverse_totals[1][y];
      posteriors.weights[1][i] = CountTable::previous(cell[1]) * inverse_totals[0][x];
      sum += posteriors.weights[0][i];
      posteriors.sums[1][y] += posteriors.weights[1][i];
    }
    posteriors.sums[0][x] = sum;
  }
  // The weights of a token are scaled to quanta_per_token_ together, and rounded.
  const auto quanta = [](float weight, float factor) {
    return static_cast<std::uint32_t>(static_cast<std::int32_t>(weight * factor + 0.5F));
  };
  for (std::size_t side = 0; side < 2; ++side) {
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      float& factor = posteriors.sums[side][i];
      factor = quanta_per_token_ * inverse(factor);
      posteriors.null_quanta[side][i] = quanta(posteriors.null_weights[side][i], factor);
    }
  }
  for (std::size_t x = 0, i = 0; x < pair.length[0]; ++x) {
    for (std::size_t y = 0; y < pair.length[1]; ++y, ++i) {
      posteriors.quanta[0][i] = quanta(posteriors.weights[0][i], posteriors.sums[0][x]);
      posteriors.quanta[1][i] = quanta(posteriors.weights[1][i], posteriors.sums[1][y]);
    }
  }
}

/// Adds the posteriors of a pair to the counts of the current round.
void IbmModel1::add_counts(const Pair& pair, const Posteriors& posteriors,
                           CountTable::Pending& pending) noexcept {
  CountTable& table = *table_;
  std::array<std::array<std::uint32_t, kMaxTokens>, 2> totals{};  // of what is given a token
  for (std::size_t x = 0, i = 0; x < pair.length[0]; ++x) {
    for (std::size_t y = 0; y < pair.length[1]; ++y, ++i) {
      table.add(pair.cells[i], posteriors.quanta[0][i], posteriors.quanta[1][i], pending);
      totals[0][x] += posteriors.quanta[1][i];
      totals[1][y] += posteriors.quanta[0][i];
    }
  }
  std::array<std::uint32_t, 2> null_totals{};
  for (std::size_t side = 0; side < 2; ++side) {
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      table.add(pair.tokens[side][i], posteriors.null_quanta[side][i], totals[side][i], pending);
      null_totals[side] += posteriors.null_quanta[side][i];
      if (is_first_round_) {
        sides_[side].frequency[token_of(pair, side, i)].fetch_add(1, std::memory_order_relaxed);
      }
    }
  }
  table.add(static_cast<std::uint32_t>(null_cell_), null_totals[0], null_totals[1], pending);
}

/// Gives each token that occurs more than once in a pair the quanta of all its occurrences: each of
/// these was counted in the same cells.
void IbmModel1::merge_repeated_tokens(const Pair& pair, Posteriors& posteriors) noexcept {
  std::array<std::array<std::uint8_t, kMaxTokens>, 2> first;  // the token's first occurrence
  bool repeats = false;
  for (std::size_t side = 0; side < 2; ++side) {
    const auto tokens = pair.tokens[side].begin();
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      first[side][i] = static_cast<std::uint8_t>(std::find(tokens, tokens + i, tokens[i]) - tokens);
      repeats |= first[side][i] < i;
    }
  }
  if (!repeats) return;
  constexpr std::uint32_t kMaxMerged = std::numeric_limits<std::int32_t>::max();
  for (std::size_t side = 0; side < 2; ++side) {
    auto& quanta = posteriors.null_quanta[side];
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      if (first[side][i] < i) quanta[first[side][i]] += quanta[i];
    }
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      quanta[i] = std::min(quanta[first[side][i]], kMaxMerged);
    }
  }
  const auto for_each_cell = [&](auto visit) {
    for (std::size_t x = 0, i = 0; x < pair.length[0]; ++x) {
      for (std::size_t y = 0; y < pair.length[1]; ++y, ++i) {
        visit(i, std::size_t{first[0][x]} * pair.length[1] + first[1][y]);
      }
    }
  };
  for (auto& quanta : posteriors.quanta) {
    for_each_cell([&](std::size_t i, std::size_t first_cell) {
      if (first_cell < i) quanta[first_cell] += quanta[i];
    });
    for_each_cell([&](std::size_t i, std::size_t first_cell) {
      quanta[i] = std::min(quanta[first_cell], kMaxMerged);
    });
  }
}

/// Writes to `sums` the likelihood of each token given the other side, times the number of tokens
/// there: by the counts of the current round, less the pair's own.
void IbmModel1::compute_likelihoods(const Pair& pair, Posteriors& posteriors) const noexcept {
  const CountTable& table = *table_;
  const float min_total = kMinTotal * quanta_per_token_;
  const auto probability = [min_total](const CountTable::Count& count, float total,
                                       std::uint32_t pair_quanta) {
    const auto pair_count = static_cast<float>(static_cast<std::int32_t>(pair_quanta));
    return (CountTable::current(count) - pair_count) / std::max(total - pair_count, min_total);
  };
  std::array<std::array<float, kMaxTokens>, 2> totals;
  const CountTable::Cell& null = table[null_cell_];
  for (std::size_t side = 0; side < 2; ++side) {
    const float null_total = CountTable::current(null[side]);
    for (std::size_t i = 0; i < pair.length[side]; ++i) {
      const CountTable::Cell& token = table[pair.tokens[side][i]];
      totals[side][i] = CountTable::current(token[1]);
      posteriors.sums[side][i] = probability(token[0], null_total, posteriors.null_quanta[side][i]);
    }
  }
  for (std::size_t x = 0, i = 0; x < pair.length[0]; ++x) {
    float sum = posteriors.sums[0][x];
    for (std::size_t y = 0; y < pair.length[1]; ++y, ++i) {
      const CountTable::Cell& cell = table[pair.cells[i]];
      sum += probability(cell[0], totals[1][y], posteriors.quanta[0][i]);
      posteriors.sums[1][y] += probability(cell[1], totals[0][x], posteriors.quanta[1][i]);
    }
    posteriors.sums[0][x] = sum;
  }
}

std::size_t IbmModel1::token_of(const Pair& pair, std::size_t side, std::size_t i) const noexcept {
  return pair.tokens[side][i] - static_cast<std::size_t>(sides_[side].first_cell);
}

void IbmModel1::count(std::int64_t begin, std::int64_t end) {
  std::vector<Workspace> workspaces;
  for_each_pair(
      begin, end, workspaces, [this](std::int64_t place) { return sampled_row(place); },
      [this](std::int64_t, const Pair& pair, Workspace& workspace) {
        compute_posteriors(pair, workspace.posteriors);
        add_counts(pair, workspace.posteriors, workspace.pending);
      });
  std::vector<CountTable::Pending*> pending;
  for (Workspace& workspace : workspaces) pending.push_back(&workspace.pending);
  table_->flush(pending);
}

void IbmModel1::start_round() {
  is_first_round_ = false;
  table_->start_round();
}

void IbmModel1::score(std::int64_t begin, std::int64_t end, SideScores* tgt,
                      SideScores* src) const {
  const std::array<SideScores*, 2> results{src, tgt};
  std::array<float, 2> num_tokens;  // with one more of each token, as in the frequencies below
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
          merge_repeated_tokens(pair, workspace.posteriors);
        } else {
          workspace.posteriors.clear(pair);
        }
        compute_likelihoods(pair, workspace.posteriors);
        for (std::size_t side = 0; side < 2; ++side) {
          const auto num_given = static_cast<float>(pair.length[1 - side] + 1);
          auto& ratios = workspace.posteriors.sums[side];
          for (std::size_t i = 0; i < pair.length[side]; ++i) {
            const auto frequency = static_cast<float>(
                sides_[side].frequency[token_of(pair, side, i)].load(std::memory_order_relaxed) +
                1U);
            const float likelihood = std::max(ratios[i] / num_given, kMinLikelihood);
            ratios[i] = std::log(likelihood * num_tokens[side] / frequency);
          }
          results[side][row - begin] = side_scores(ratios.data(), pair.length[side]);
        }
      });
}

}  // namespace pycat
