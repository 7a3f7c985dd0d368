#include "ranking/radix_select.h"

#include <cstring>

namespace pycat {
namespace {

/// Orders as the scores do: the bits of a float, those of negative ones turned.
std::uint64_t key_of(double score) {
  constexpr std::uint64_t kSign = std::uint64_t{1} << 63;
  const double positive_zero = score + 0.0;  // -0.0 equals 0.0 and must have its key
  std::uint64_t bits;
  std::memcpy(&bits, &positive_zero, sizeof bits);
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

}  // namespace

bool sum_digits(const RankedRows& rows, const std::uint64_t* heads, int known_bits, int digit_bits,
                std::int64_t* sums) {
  const int shift = 64 - known_bits - digit_bits;
  const std::uint64_t mask = (std::uint64_t{1} << digit_bits) - 1;
  for (std::int64_t row = 0; row < rows.num_rows; ++row) {
    const std::int64_t group = rows.groups[row];
    if (group < 0) continue;
    if (group >= rows.num_groups) return false;
    const std::uint64_t digits = key_of(rows.scores[row]) >> shift;
    // Shifting 64 bits out is not defined.
    if (known_bits > 0 && digits >> digit_bits != heads[group]) continue;
    const std::uint64_t place = (static_cast<std::uint64_t>(group) << digit_bits) + (digits & mask);
    sums[place] += rows.costs == nullptr ? 1 : rows.costs[row];
  }
  return true;
}

bool take_above(const RankedRows& rows, const std::uint64_t* keys, const bool* whole,
                std::int64_t* left, bool* taken) {
  for (std::int64_t row = 0; row < rows.num_rows; ++row) {
    const std::int64_t group = rows.groups[row];
    taken[row] = false;
    if (group < 0) continue;
    if (group >= rows.num_groups) return false;
    const std::uint64_t key = key_of(rows.scores[row]);
    // No branch for what is above: no processor foresees it.
    taken[row] = whole[group] | (key > keys[group]);
    if (key == keys[group] && !whole[group]) {
      // What is not paid for counts too: no later one is taken in its place.
      left[group] -= rows.costs == nullptr ? 1 : rows.costs[row];
      taken[row] = left[group] >= 0;
    }
  }
  return true;
}

}  // namespace pycat
