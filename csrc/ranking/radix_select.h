#pragma once

#include <cstdint>

namespace pycat {

/// Some rows of a ranking: from the highest score to the lowest, in groups 0 to num_groups - 1.
struct RankedRows {
  const double* scores;        // none NaN
  const std::int32_t* groups;  // below 0: in none
  const std::int64_t* costs;   // null: 1 each
  std::int64_t num_rows;
  std::int64_t num_groups;
};

/// Adds the rows' costs to sums (G, 2^digit_bits), by the digit of their scores that follows the
/// first 64 - known_bits bits; of those alone whose first bits are their group's in `heads`. Bits
/// are those of a whole number that orders as the scores do. False where a group is out of range.
bool sum_digits(const RankedRows& rows, const std::uint64_t* heads, int known_bits, int digit_bits,
                std::int64_t* sums);

/// Takes the rows above their group's key (all of `whole` groups), and of those at it the first
/// that `left` (G,) pays for, which becomes less. False where a group is out of range.
bool take_above(const RankedRows& rows, const std::uint64_t* keys, const bool* whole,
                std::int64_t* left, bool* taken);

}  // namespace pycat
