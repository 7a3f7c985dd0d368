#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

namespace pycat {

/// A table of counts that threads add to, round after round.
///
/// Counts are whole numbers of quanta, so that neither the order of additions nor the number of
/// threads changes a result. A count holds its total of the previous round, as a float of 24 bits,
/// above its 40-bit total of the current round: one read gives both, and an addition to the latter
/// leaves the former alone.
class CountTable {
 public:
  using Count = std::atomic<std::uint64_t>;
  using Cell = std::array<Count, 2>;

  static constexpr int kCountBits = 40;
  static constexpr std::uint64_t kMaxCount = (std::uint64_t{1} << kCountBits) - 1;

  /// Additions of one thread that are not in the table yet, for each part of the table.
  class Pending;

  /// A table of `num_cells` cells, below 2^32. In each count, the previous round's total is 1 and
  /// the current round's 0.
  CountTable(std::int64_t num_cells, std::int64_t num_threads);

  static float previous(const Count& count) noexcept {
    const auto bits = static_cast<std::uint32_t>(load(count) >> kCountBits << kDroppedBits);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  static float current(const Count& count) noexcept {
    return static_cast<float>(static_cast<std::int64_t>(load(count) & kMaxCount));
  }

  const Cell& operator[](std::size_t cell) const noexcept { return cells_[cell]; }
  void prefetch(std::size_t cell) const noexcept { __builtin_prefetch(&cells_[cell], 1); }

  /// Adds to the current round's counts of a cell, at once if there is one thread. Otherwise
  /// additions wait in `pending` and are made many at a time: an atomic addition for each would
  /// take longer than all else.
  void add(std::uint32_t cell, std::uint32_t first, std::uint32_t second,
           Pending& pending) noexcept;

  /// Makes the additions that wait in `pending`, on all threads.
  void flush(const std::vector<Pending*>& pending);

  /// Makes the current round the previous one.
  void start_round();

 private:
  static constexpr std::size_t kNumParts = 128;
  static constexpr int kDroppedBits = 7;  // of a float of 32 bits without its sign

  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  static std::uint64_t load(const Count& count) noexcept {
    return count.load(std::memory_order_relaxed);
  }
  static std::uint64_t as_previous(float total) noexcept;
  static void increase(Cell& cell, std::uint32_t first, std::uint32_t second) noexcept;
  void flush_part(Pending& pending, std::size_t part) noexcept;
  template <typename Work>
  void for_each_cell(const Work& work);

  std::int64_t num_cells_;
  std::int64_t num_threads_;
  std::unique_ptr<Cell[], Free> cells_;
  // One thread at a time adds to a part of the table: consecutive cells, 2^part_bits_ of them.
  int part_bits_ = 0;
  std::array<std::mutex, kNumParts> locks_;
};

class CountTable::Pending {
 private:
  friend class CountTable;

  // Additions made under one lock: those of all parts fit the nearest cache.
  static constexpr std::size_t kBatch = 64;
  struct Addition {
    std::uint32_t cell;
    std::uint32_t first;
    std::uint32_t second;
  };
  std::array<std::size_t, kNumParts> size_{};
  std::array<std::array<Addition, kBatch>, kNumParts> additions_;
};

}  // namespace pycat
