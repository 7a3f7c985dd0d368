#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "corpus/indexed_file.h"

namespace pycat {

/// Greedy choice of the pairs whose n-grams the choice so far has seldom seen: feature decay.
/// pycat/ranking/coverage.py has the formula. The first 128 tokens of a side count; EOS does not.
///
/// Gains only fall while pairs are chosen, so a pair's last known gain bounds its present one: a
/// heap of these bounds names the few pairs that must be measured again (a lazy greedy choice). The
/// pairs at the top of the heap are read together, and chosen from while the best of them beats
/// every bound in the heap. A pair counts as the best if its gain is at most a share, the
/// tolerance, below the best bound; with none the choice is that of the plain greedy algorithm. It
/// does not depend on the number of threads. Not thread-safe.
class NgramCoverage {
 public:
  struct Options {
    std::int64_t num_cells;  // 4 bytes each; a power of two
    double decay;            // in (0, 1)
    double tolerance;        // in [0, 1)
    std::int64_t num_threads;
  };

  /// `ids` (num_pairs,), the pairs to choose from, must outlive the object.
  NgramCoverage(std::shared_ptr<const IndexedFile> src, std::shared_ptr<const IndexedFile> tgt,
                const std::int64_t* ids, std::int64_t num_pairs, Options options);

  std::int64_t num_pairs() const noexcept { return num_pairs_; }

  /// Counts the n-grams of pairs [begin, end), each once for each pair that has it.
  void count(std::int64_t begin, std::int64_t end);
  /// Makes weights of the counts. Comes after the counts of all pairs, once.
  void weigh();
  /// Writes the gains of pairs [begin, end) as the choice stands: those of the chosen at their
  /// time.
  void measure(std::int64_t begin, std::int64_t end, float* gains);
  /// Chooses up to `max_chosen` further pairs; returns their rows in the order of choice.
  std::vector<std::int64_t> choose(std::int64_t max_chosen);

 private:
  struct Candidate {
    float gain;
    std::uint32_t row;
  };
  /// A pair of the batch.
  struct Place {
    float gain;
    std::uint32_t row;
    std::uint32_t place;
    std::int64_t as_of;  // number of pairs chosen when the gain was measured
  };
  /// The distinct cells of a pair's n-grams, and the tokens of both sides that count.
  struct Features {
    std::vector<std::uint32_t> cells;
    std::int32_t num_tokens = 0;
  };
  struct Workspace;
  struct Free {
    void operator()(void* memory) const noexcept { std::free(memory); }
  };

  template <typename Work>
  void for_each_pair(const std::vector<std::uint32_t>& rows, const Work& work);
  void read(const std::vector<std::uint32_t>& rows, std::size_t begin, std::size_t end,
            Workspace& workspace) const;
  void find_cells(Workspace& workspace, std::size_t i, Features& features) const;
  void prefetch(const Features& features) const noexcept;
  float gain(const Features& features) const noexcept;
  void decay(const Features& features) noexcept;
  bool is_beaten(const Place& place, const Candidate& bound) const noexcept;
  void fill_bounds();
  void refill();

  std::array<std::shared_ptr<const IndexedFile>, 2> sides_;  // source, target
  const std::int64_t* ids_;
  std::int64_t num_pairs_;
  std::int64_t num_threads_;
  float decay_;
  float least_share_;  // 1 - tolerance
  int cell_bits_;
  // For each n-gram, addressed by hash: first in how many pairs it is, then the bits of its weight.
  std::unique_ptr<std::atomic<std::uint32_t>[], Free> cells_;
  std::vector<Candidate> bounds_;  // heap of the pairs that are not in the batch
  std::vector<float> gains_;       // (num_pairs,) at the time of choice; negative before
  std::int64_t num_chosen_ = 0;
  float last_gain_ = 0;  // of the pair chosen last
  bool has_bounds_ = false;

  // The batch: features of its pairs, and a heap of their places by their last known gains.
  std::vector<Features> features_;
  std::vector<Place> batch_;
};

}  // namespace pycat
