#include "filters/duplicate_groups.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace pycat {
namespace {

/// Calls `visit(row, first)` for each row in order, where `first` is the first row with its hash.
template <typename Visit>
void for_each_row(const std::uint64_t* hashes, std::size_t num_rows, const Visit& visit) {
  constexpr auto kFree = std::numeric_limits<std::uint32_t>::max();
  constexpr std::size_t kAhead = 16;
  if (num_rows > std::size_t{1} << 31) {
    throw std::invalid_argument(std::to_string(num_rows) + " rows; expected at most 2^31");
  }
  // A hash table with open addressing, of which a third stays free.
  const std::uint64_t num_slots = num_rows + num_rows / 2 + 1;
  std::vector<std::uint32_t> slots(num_slots, kFree);
  const auto slot_of = [&](std::size_t row) { return (hashes[row] >> 32) * num_slots >> 32; };
  for (std::size_t row = 0; row < num_rows; ++row) {
    if (row + kAhead < num_rows) __builtin_prefetch(&slots[slot_of(row + kAhead)]);
    std::uint64_t slot = slot_of(row);
    while (slots[slot] != kFree && hashes[slots[slot]] != hashes[row]) {
      slot = slot + 1 == num_slots ? 0 : slot + 1;
    }
    if (slots[slot] == kFree) slots[slot] = static_cast<std::uint32_t>(row);
    visit(row, std::size_t{slots[slot]});
  }
}

std::int64_t root_of(std::int64_t* roots, std::int64_t row) {
  while (roots[row] != row) {
    roots[row] = roots[roots[row]];
    row = roots[row];
  }
  return row;
}

}  // namespace

void first_duplicates(const std::uint64_t* hashes, std::size_t num_rows, std::int64_t* first) {
  for_each_row(hashes, num_rows, [&](std::size_t row, std::size_t first_duplicate) {
    first[row] = static_cast<std::int64_t>(first_duplicate);
  });
}

void join_duplicates(const std::uint64_t* hashes, std::size_t num_rows, std::int64_t* roots) {
  for_each_row(hashes, num_rows, [&](std::size_t row, std::size_t first_duplicate) {
    if (row == first_duplicate) return;
    const std::int64_t one = root_of(roots, static_cast<std::int64_t>(row));
    const std::int64_t other = root_of(roots, static_cast<std::int64_t>(first_duplicate));
    roots[std::max(one, other)] = std::min(one, other);
  });
}

void settle_roots(std::size_t num_rows, std::int64_t* roots) {
  for (std::size_t row = 0; row < num_rows; ++row) roots[row] = roots[roots[row]];
}

void copies_before(const std::int64_t* groups, std::size_t num_rows, std::size_t num_groups,
                   std::int64_t* counts) {
  std::vector<std::uint32_t> seen(num_groups);
  for (std::size_t row = 0; row < num_rows; ++row) {
    const std::int64_t group = groups[row];
    if (group < 0 || static_cast<std::size_t>(group) >= num_groups) {
      throw std::invalid_argument("row " + std::to_string(row) + " is of group " +
                                  std::to_string(group) + "; expected one below " +
                                  std::to_string(num_groups));
    }
    counts[row] = seen[static_cast<std::size_t>(group)]++;
  }
}

}  // namespace pycat
