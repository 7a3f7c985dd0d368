#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "base/scratch_file.h"
#include "corpus/indexed_file.h"

namespace pycat {

/// Pairs sorted by target length, then by source length. Counting sort takes O(N) time, and the
/// order 4 bytes a pair (8 from 2^32 pairs). Where lengths differ too much to be counted, pairs
/// with a side of more than 2047 tokens come last, sorted by comparing.
///
/// The order is kept in a mapped file instead of the process's memory. It never changes: batches
/// and epochs are computed from it.
class PairOrder {
 public:
  /// Pairs of equal lengths: positions `begin` up to the next cell's `begin`.
  struct Cell {
    std::int32_t tgt_length;
    std::int32_t src_length;
    std::uint64_t begin;
  };

  /// Sorts `ids`, or all pairs if it is null.
  PairOrder(const IndexedFile& src, const IndexedFile& tgt, const std::int64_t* ids,
            std::size_t num_ids, const std::filesystem::path& scratch_folder);

  /// Whether the order was made from these files in their present state.
  bool is_of(const IndexedFile& src, const IndexedFile& tgt) const noexcept {
    return src.identity() == src_ && tgt.identity() == tgt_;
  }
  std::uint64_t size() const noexcept { return size_; }
  /// A hash of the ids that were sorted; 0 if all pairs were.
  std::uint64_t choice() const noexcept { return choice_; }
  const std::vector<Cell>& cells() const noexcept { return cells_; }
  /// One past the last position of a cell.
  std::uint64_t end(std::size_t cell) const noexcept {
    return cell + 1 < cells_.size() ? cells_[cell + 1].begin : size_;
  }
  /// The cell that `position` lies in.
  std::size_t cell_at(std::uint64_t position) const noexcept;

  std::int64_t pair(std::uint64_t position) const noexcept {
    return wide_ ? static_cast<std::int64_t>(load<std::uint64_t>(order_.data() + 8 * position))
                 : static_cast<std::int64_t>(load<std::uint32_t>(order_.data() + 4 * position));
  }
  void prefetch(std::uint64_t position) const noexcept {
    __builtin_prefetch(order_.data() + (wide_ ? 8 : 4) * position);
  }

 private:
  template <typename Number, typename PairAt>
  void sort(const IndexedFile& src, const IndexedFile& tgt, const PairAt& pair_at);
  template <typename Number>
  void sort_by_comparing(const IndexedFile& src, const IndexedFile& tgt, std::uint64_t first);

  std::array<MappedFile::Identity, 2> src_;
  std::array<MappedFile::Identity, 2> tgt_;
  std::uint64_t size_;
  std::uint64_t choice_ = 0;
  bool wide_;
  ScratchFile order_;
  std::vector<Cell> cells_;
};

}  // namespace pycat
