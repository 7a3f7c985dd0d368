#pragma once

#include <cstdint>
#include <vector>

namespace pycat {

/// Letters of a line as numbers of 16 bits, case folded, with two blanks at both ends. Below 0x80
/// they are ASCII.
using Letters = std::vector<std::uint16_t>;

/// Removes what translators leave as it is: placeholders, tags and entities, and words in ASCII
/// with an underscore, a slash, a backslash or an at sign, such as paths and addresses. Of several
/// blanks one stays, and none at the ends but those two.
void remove_markup(Letters& letters);

}  // namespace pycat
