#include "filters/markup.h"

#include <algorithm>
#include <cstddef>

namespace pycat {
namespace {

bool is_letter(unsigned letter) { return letter - 'a' < 26; }
bool is_digit(unsigned letter) { return letter - '0' < 10; }

/// The end of what begins at `at` if that is a placeholder, a tag or an entity, else `at`:
/// `%(name)s`, `%1$d`, `{name}`, `$name`, `<tag>`, `&amp;`. The letters are case folded, and `at`
/// is in front of the two blanks at the end.
std::size_t placeholder_end(const Letters& letters, std::size_t at) {
  constexpr std::size_t kMaxLetters = 80;
  const std::size_t end = std::min(letters.size(), at + kMaxLetters);
  const auto behind = [&](std::size_t from, unsigned letter) {
    while (from < end && letters[from] != letter) ++from;
    return from < end ? from + 1 : at;
  };
  const unsigned first = letters[at], next = letters[at + 1];
  std::size_t i = at + 1;
  switch (first) {
    case '%':
      if (next == '(') i = std::max(behind(i, ')'), i);
      while (i < end && (is_digit(letters[i]) || letters[i] == '.' || letters[i] == '$' ||
                         letters[i] == '-' || letters[i] == '#')) {
        ++i;
      }
      return i < end && is_letter(letters[i]) ? i + 1 : at;
    case '{':
      return behind(i, '}');
    case '<':
      return is_letter(next) || next == '/' ? behind(i, '>') : at;
    case '$':
    case '&':
      while (i < end && (is_letter(letters[i]) || is_digit(letters[i]) || letters[i] == '_' ||
                         letters[i] == '#')) {
        ++i;
      }
      if (first == '$') return i > at + 1 ? i : at;
      return i < end && letters[i] == ';' ? i + 1 : at;
    default:
      return at;
  }
}

}  // namespace

void remove_markup(Letters& letters) {
  std::size_t out = 2, word = 2;  // the place after the last blank, or the last letter beyond ASCII
  bool is_name = false;
  const std::size_t end = letters.size() - 2;
  const auto end_word = [&] {
    if (is_name) out = word;
    is_name = false;
  };
  for (std::size_t at = 2; at < end;) {
    if (const std::size_t behind = placeholder_end(letters, at); behind > at) {
      at = std::min(behind, end);
      continue;
    }
    const std::uint16_t letter = letters[at++];
    const bool ends_word = letter <= ' ' || letter >= 0x80;
    if (ends_word) end_word();
    if (letter == ' ' && letters[out - 1] == ' ') continue;
    letters[out++] = letter;
    if (ends_word) word = out;
    is_name |= letter == '_' || letter == '/' || letter == '@' || letter == '\\';
  }
  end_word();
  if (out > 2 && letters[out - 1] == ' ') --out;
  letters.resize(out + 2);
  letters[out] = letters[out + 1] = ' ';
}

}  // namespace pycat
