#pragma once

#include <cstdint>

namespace pycat {

/// Part of a ranking's rows. Each row belongs to one of the groups 0 to num_groups - 1, or to none.
struct RankedRows {
  const double* scores;        // (num_rows,) none NaN; larger ranks first
  const std::int32_t* groups;  // (num_rows,) negative: in no group
  const std::int64_t* costs;   // (num_rows,) or null: each row costs 1
  std::int64_t num_rows;
  std::int64_t num_groups;
};

// A radix selection reads each score as a key: a 64-bit unsigned number that orders as the scores
// do. Digit by digit, from the highest bits, a histogram of each group shows where its budget ends.

/// Adds each row's cost to the bin of its group and of its key's next digit in `histogram`
/// (num_groups, 2^digit_bits). Only rows whose key begins with the `prefix_bits` bits in `prefixes`
/// (num_groups,) of their group count. Returns false if a group is out of range.
bool radix_histogram(const RankedRows& rows, const std::uint64_t* prefixes, int prefix_bits,
                     int digit_bits, std::int64_t* histogram);

/// Writes to `selected` (num_rows,) whether each row is above its group's key in `keys`
/// (num_groups,). Of the rows at the key, it selects the first ones that `budgets` (num_groups,)
/// pays for, and subtracts their costs there. All rows of a group in `take_all` (num_groups,) are
/// selected. Returns false if a group is out of range.
bool select_above(const RankedRows& rows, const std::uint64_t* keys, const bool* take_all,
                  std::int64_t* budgets, bool* selected);

}  // namespace pycat
