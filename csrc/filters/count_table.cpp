#include "filters/count_table.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <utility>

#include "base/int_math.h"
#include "base/worker_threads.h"

namespace pycat {
namespace {

constexpr std::int64_t kTaskCells = 1 << 16;
constexpr std::size_t kPrefetchAhead = 16;
constexpr std::size_t kHugePage = std::size_t{1} << 21;

}  // namespace

CountTable::CountTable(std::int64_t num_cells, std::int64_t num_threads)
    : num_cells_(num_cells), num_threads_(num_threads) {
  while ((num_cells_ - 1) >> part_bits_ >= static_cast<std::int64_t>(kNumParts)) ++part_bits_;
  const std::size_t num_bytes =
      round_up(static_cast<std::size_t>(num_cells_) * sizeof(Cell), kHugePage);
  void* memory = std::aligned_alloc(kHugePage, num_bytes);
  if (memory == nullptr) throw std::bad_alloc();
  // With small pages every cell would cost a page walk. The kernel may refuse huge ones.
  static_cast<void>(::madvise(memory, num_bytes, MADV_HUGEPAGE));
  cells_.reset(static_cast<Cell*>(memory));
  for_each_cell([](Cell& cell) { new (&cell) Cell{{{as_previous(1)}, {as_previous(1)}}}; });
}

void CountTable::add(std::uint32_t cell, std::uint32_t first, std::uint32_t second,
                     Pending& pending) noexcept {
  if (num_threads_ == 1) {
    increase(cells_[cell], first, second);
    return;
  }
  const std::size_t part = cell >> part_bits_;
  pending.additions_[part][pending.size_[part]++] = {cell, first, second};
  if (pending.size_[part] == Pending::kBatch) {
    const std::lock_guard<std::mutex> lock(locks_[part]);
    flush_part(pending, part);
  }
}

void CountTable::flush(const std::vector<Pending*>& pending) {
  run_tasks(kNumParts, num_threads_, [&](std::int64_t part, std::int64_t) {
    for (Pending* additions : pending) flush_part(*additions, static_cast<std::size_t>(part));
  });
}

void CountTable::start_round() {
  for_each_cell([](Cell& cell) {
    for (Count& count : cell) count.store(as_previous(current(count)), std::memory_order_relaxed);
  });
}

std::uint64_t CountTable::as_previous(float total) noexcept {
  std::uint32_t bits;
  std::memcpy(&bits, &total, sizeof bits);
  constexpr std::uint64_t kHalf = std::uint64_t{1} << (kDroppedBits - 1);
  return (std::uint64_t{bits} + kHalf) >> kDroppedBits << kCountBits;
}

void CountTable::increase(Cell& cell, std::uint32_t first, std::uint32_t second) noexcept {
  cell[0].store(load(cell[0]) + first, std::memory_order_relaxed);
  cell[1].store(load(cell[1]) + second, std::memory_order_relaxed);
}

void CountTable::flush_part(Pending& pending, std::size_t part) noexcept {
  const auto& additions = pending.additions_[part];
  const std::size_t size = std::exchange(pending.size_[part], 0);
  for (std::size_t i = 0; i < size; ++i) {
    if (i + kPrefetchAhead < size) prefetch(additions[i + kPrefetchAhead].cell);
    increase(cells_[additions[i].cell], additions[i].first, additions[i].second);
  }
}

template <typename Work>
void CountTable::for_each_cell(const Work& work) {
  run_tasks(divide_up(num_cells_, kTaskCells), num_threads_, [&](std::int64_t task, std::int64_t) {
    const std::int64_t end = std::min(num_cells_, (task + 1) * kTaskCells);
    for (std::int64_t i = task * kTaskCells; i < end; ++i)
      work(cells_[static_cast<std::size_t>(i)]);
  });
}

}  // namespace pycat
