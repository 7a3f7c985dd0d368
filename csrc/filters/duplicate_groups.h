#pragma once

#include <cstddef>
#include <cstdint>

namespace pycat {

/// Groups of rows with equal hashes; a table of 6 bytes a row is held meanwhile. At most 2^31 rows:
/// else std::invalid_argument.

/// The first row that has the hash of each.
void first_duplicates(const std::uint64_t* hashes, std::size_t num_rows, std::int64_t* first);

/// Joins the groups of rows that share a hash. `roots` points from each row to one of its group
/// that is not behind it, and to itself at first; `settle` makes that the first one.
void join_duplicates(const std::uint64_t* hashes, std::size_t num_rows, std::int64_t* roots);
void settle(std::size_t num_rows, std::int64_t* roots);

/// How many earlier rows have the same group. Groups lie in [0, num_groups): else
/// std::invalid_argument.
void copies_before(const std::int64_t* groups, std::size_t num_rows, std::size_t num_groups,
                   std::int64_t* counts);

}  // namespace pycat
