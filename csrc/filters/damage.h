#pragma once

#include <cstdint>
#include <string_view>

namespace pycat {

/// Counts the damaged characters of a line of UTF-8: U+FFFD, UTF-8 that was read as Latin-1 or
/// Windows-1252 and written again, and question marks in place of letters.
std::int32_t count_damage(std::string_view line);

}  // namespace pycat
