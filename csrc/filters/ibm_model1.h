#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include "corpus/indexed_file.h"

namespace pycat {

/// What the other side tells of a side's tokens: the mean of their log ratios, and the largest sum
/// of min(ln 2 - ratio, 2) over tokens that follow each other, at least 0.
struct SideScores {
  float mean;
  float gap;
};

/// IBM Model 1 in both directions, estimated on a sample of a corpus, and how well each pair fits
/// it: pycat/lexical.py says what is computed.
///
/// Expected counts are kept in whole quanta, so that neither their order nor the number of threads
/// matters. Of use to one caller at a time.
class IbmModel1 {
 public:
  struct Options {
    std::int64_t max_sample;
    std::int64_t max_cells;  // 16 bytes each; rounded down to a power of two
    std::int64_t num_threads;
  };

  /// Both files have a vocab_size. `ids` are those of the `num_pairs` pairs and must outlive the
  /// model; null for all.
  IbmModel1(std::shared_ptr<const IndexedFile> src, std::shared_ptr<const IndexedFile> tgt,
               const std::int64_t* ids, std::int64_t num_pairs, Options options);

  std::int64_t num_pairs() const noexcept { return num_pairs_; }
  std::int64_t num_sampled() const noexcept { return num_sampled_; }
  /// Of token pairs.
  std::int64_t num_cells() const noexcept { return std::int64_t{1} << cell_bits_; }

  /// Adds the expected counts of the sample's pairs [begin, end).
  void count(std::int64_t begin, std::int64_t end);
  /// What has been counted becomes the probabilities of the next round.
  void start_round();
  /// Writes the side_scores of the corpus's pairs [begin, end): of targets, and of sources.
  void score(std::int64_t begin, std::int64_t end, SideScores* tgt, SideScores* src) const;

 private:
  /// Of one round: the count of the round previous as a float of 24 bits, then that of this one in
  /// 40. So one read gives both, and adding to the latter does not touch the former.
  using Count = std::atomic<std::uint64_t>;
  /// Of token pairs, two to the power of `cell_bits_`: what the source token is given the target
  /// token, and the reverse. Then, one for each token: what it is given NULL, and all that is given
  /// it. The last: what all source tokens are given NULL, and all target tokens.
  using Cell = std::array<Count, 2>;
  struct Side {
    std::shared_ptr<const IndexedFile> file;
    std::unique_ptr<std::atomic<std::uint32_t>[]> frequency;
    std::int64_t first_cell = 0;
    std::int64_t num_sampled_tokens = 0;
  };
  static constexpr int kParts = 128;
  struct Pair;
  struct Posteriors;
  struct Pending;
  struct Workspace;
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  std::int64_t id(std::int64_t row) const noexcept { return ids_ == nullptr ? row : ids_[row]; }
  std::int64_t measure_sample();
  void reserve_cells(std::int64_t max_cells, std::int64_t num_token_pairs);
  std::int64_t sampled_row(std::int64_t place) const noexcept;
  bool is_sampled(std::int64_t row) const noexcept;
  template <typename Work>
  void for_each_cell(const Work& work) const;
  template <typename RowOf, typename Work>
  void for_each_pair(std::int64_t begin, std::int64_t end, std::vector<Workspace>& workspaces,
                     const RowOf& row_of, const Work& work) const;
  void read(Workspace& workspace) const;
  void locate_cells(const Workspace& workspace, std::size_t i, Pair& pair) const;
  void compute_posteriors(const Pair& pair, Posteriors& posteriors) const noexcept;
  void add(const Pair& pair, const Posteriors& posteriors, Pending& pending) noexcept;
  void add(std::uint32_t cell, std::uint32_t first, std::uint32_t second,
           Pending& pending) noexcept;
  void apply(Pending& pending, std::size_t part) noexcept;
  static void merge_repeated(const Pair& pair, Posteriors& posteriors) noexcept;
  void compute_probabilities(const Pair& pair, Posteriors& posteriors) const noexcept;

  std::array<Side, 2> sides_;
  const std::int64_t* ids_;
  std::int64_t num_pairs_;
  std::int64_t num_sampled_;
  std::int64_t num_threads_;
  bool is_first_round_ = true;
  float quanta_per_count_ = 1;  // in quanta
  int cell_bits_ = 10;
  std::int64_t num_cells_ = 0;  // of all kinds
  std::unique_ptr<Cell[], Free> cells_;
  // Threads add to a part of the cells at a time, under its lock.
  int part_bits_ = 0;
  std::array<std::mutex, kParts> locks_;
};

}  // namespace pycat
