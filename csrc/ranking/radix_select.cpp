#include "ranking/radix_select.h"

#include <cstring>

namespace pycat {
namespace {

/// A key that orders as the scores do: the bits of the float, inverted where it is negative.
std::uint64_t key_of(double score) {
  constexpr std::uint64_t kSign = std::uint64_t{1} << 63;
  const double positive_zero = score + 0.0;  // -0.0 and 0.0 are equal and must share a key
  std::uint64_t bits;
  std::memcpy(&bits, &positive_zero, sizeof bits);
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

}  // namespace

bool radix_histogram(const RankedRows& rows, const std::uint64_t* prefixes, int prefix_bits,
                     int digit_bits, std::int64_t* histogram) {
  const int shift = 64 - prefix_bits - digit_bits;
  const std::uint64_t mask = (std::uint64_t{1} << digit_bits) - 1;
  for (std::int64_t row = 0; row < rows.num_rows; ++row) {
    const std::int64_t group = rows.groups[row];
    if (group < 0) continue;
    if (group >= rows.num_groups) return false;
    const std::uint64_t digits = key_of(rows.scores[row]) >> shift;
    // Without a prefix the shift could be by 64 bits, which is undefined.
    if (prefix_bits > 0 && digits >> digit_bits != prefixes[group]) continue;
    const std::uint64_t bin = (static_cast<std::uint64_t>(group) << digit_bits) + (digits & mask);
    histogram[bin] += rows.costs == nullptr ? 1 : rows.costs[row];
  }
  return true;
}

bool select_above(const RankedRows& rows, const std::uint64_t* keys, const bool* take_all,
                  std::int64_t* budgets, bool* selected) {
  for (std::int64_t row = 0; row < rows.num_rows; ++row) {
    const std::int64_t group = rows.groups[row];
    selected[row] = false;
    if (group < 0) continue;
    if (group >= rows.num_groups) return false;
    const std::uint64_t key = key_of(rows.scores[row]);
    // Without a branch: whether a row is above the key is unpredictable.
    selected[row] = take_all[group] | (key > keys[group]);
    if (key == keys[group] && !take_all[group]) {
      // A row that exceeds the budget is charged too: no cheaper later row may take its place.
      budgets[group] -= rows.costs == nullptr ? 1 : rows.costs[row];
      selected[row] = budgets[group] >= 0;
    }
  }
  return true;
}

}  // namespace pycat
