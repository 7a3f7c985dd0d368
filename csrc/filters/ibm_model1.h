#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "corpus/indexed_file.h"
#include "filters/count_table.h"

namespace pycat {

/// How well one side of a pair explains the other. The ratio of a token is the log of how likely it
/// is given the other side over how likely it is anywhere.
struct SideScores {
  float mean;  // of the ratios of the side's tokens
  float gap;   // the largest sum of min(ln 2 - ratio, 2) over consecutive tokens, at least 0
};

/// IBM Model 1 (Brown et al. 1993) in both directions. It is estimated on a sample of a corpus, and
/// then scores how well each pair fits it: pycat/filters/lexical.py has the formulas. The first
/// 128 tokens of a side count; EOS does not.
///
/// Results do not depend on the number of threads. Not thread-safe.
class IbmModel1 {
 public:
  struct Options {
    std::int64_t max_sample;  // pairs
    std::int64_t max_cells;   // 16 bytes each; rounded down to a power of two
    std::int64_t num_threads;
  };

  /// Both files must have a vocab_size. `ids` (num_pairs,) are the pairs of the corpus, and must
  /// outlive the model; null for all pairs.
  IbmModel1(std::shared_ptr<const IndexedFile> src, std::shared_ptr<const IndexedFile> tgt,
            const std::int64_t* ids, std::int64_t num_pairs, Options options);

  std::int64_t num_pairs() const noexcept { return num_pairs_; }
  std::int64_t num_sampled() const noexcept { return num_sampled_; }
  /// Number of cells for token pairs.
  std::int64_t num_cells() const noexcept { return std::int64_t{1} << cell_bits_; }

  /// Adds the expected counts of pairs [begin, end) of the sample.
  void count(std::int64_t begin, std::int64_t end);
  /// Makes the counts of this round the probabilities of the next one.
  void start_round();
  /// Writes the scores of pairs [begin, end) of the corpus: those of targets and those of sources.
  void score(std::int64_t begin, std::int64_t end, SideScores* tgt, SideScores* src) const;

 private:
  struct Side {
    std::shared_ptr<const IndexedFile> file;
    std::unique_ptr<std::atomic<std::uint32_t>[]> frequency;  // (vocab_size,) in the sample
    std::int64_t first_cell = 0;                              // of its tokens
    std::int64_t num_sampled_tokens = 0;
  };
  struct Pair;
  struct Posteriors;
  struct Workspace;

  std::int64_t id(std::int64_t row) const noexcept { return ids_ == nullptr ? row : ids_[row]; }
  std::int64_t measure_sample();
  void reserve_cells(std::int64_t max_cells, std::int64_t num_token_pairs);
  std::int64_t sampled_row(std::int64_t place) const noexcept;
  bool is_sampled(std::int64_t row) const noexcept;
  template <typename RowOf, typename Work>
  void for_each_pair(std::int64_t begin, std::int64_t end, std::vector<Workspace>& workspaces,
                     const RowOf& row_of, const Work& work) const;
  void read_tokens(Workspace& workspace) const;
  void locate_cells(const Workspace& workspace, std::size_t i, Pair& pair) const;
  void compute_posteriors(const Pair& pair, Posteriors& posteriors) const noexcept;
  void add_counts(const Pair& pair, const Posteriors& posteriors,
                  CountTable::Pending& pending) noexcept;
  static void merge_repeated_tokens(const Pair& pair, Posteriors& posteriors) noexcept;
  void compute_likelihoods(const Pair& pair, Posteriors& posteriors) const noexcept;
  std::size_t token_of(const Pair& pair, std::size_t side, std::size_t i) const noexcept;

  std::array<Side, 2> sides_;  // source, target
  const std::int64_t* ids_;
  std::int64_t num_pairs_;
  std::int64_t num_sampled_;
  std::int64_t num_threads_;
  bool is_first_round_ = true;
  float quanta_per_token_ = 1;
  int cell_bits_;
  // First 2^cell_bits_ cells of token pairs, addressed by hash: counts of the source token given
  // the target token, and of the target token given the source token. Then a cell for each token:
  // its count given NULL, and the total of all counts given it. The last cell is NULL's: the totals
  // of source tokens given it, and of target tokens.
  std::optional<CountTable> table_;
  std::size_t null_cell_ = 0;
};

}  // namespace pycat
