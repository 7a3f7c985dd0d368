#pragma once

#include <cstddef>
#include <cstdint>

namespace pycat {

// Groups of rows with equal hashes. first_duplicates() and join_duplicates() use a table of 6 bytes
// a row, and throw std::invalid_argument for more than 2^31 rows.

/// Writes to `first` (num_rows,) the first row that has the hash of each row.
void first_duplicates(const std::uint64_t* hashes, std::size_t num_rows, std::int64_t* first);

/// Joins the groups of rows that share a hash. `roots` (num_rows,) points from each row to a row of
/// its group that is not behind it; at first, to itself. After settle_roots() it points to the
/// group's first row.
void join_duplicates(const std::uint64_t* hashes, std::size_t num_rows, std::int64_t* roots);
void settle_roots(std::size_t num_rows, std::int64_t* roots);

/// Writes to `counts` (num_rows,) how many earlier rows have the same group. Throws
/// std::invalid_argument unless groups lie in [0, num_groups).
void copies_before(const std::int64_t* groups, std::size_t num_rows, std::size_t num_groups,
                   std::int64_t* counts);

}  // namespace pycat
