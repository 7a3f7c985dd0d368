#include "filters/damage.h"

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "filters/utf8.h"

namespace pycat {
namespace {

/// Whether a word in capitals ends with the two bytes at `at`, and a quotation mark, an ellipsis or
/// a blank follows in UTF-8, as in `IRMÃ”` and `AMANHÃ…`.
bool ends_capitals(std::string_view line, std::size_t at) {
  if (at == 0 || !is_capital(static_cast<unsigned char>(line[at - 1]))) return false;
  const std::size_t next = at + (static_cast<unsigned char>(line[at + 2]) == 0xE2 ? 5 : 4);
  if (next >= line.size()) return true;
  const auto byte = static_cast<unsigned char>(line[next]);
  return byte < 0x80 && !is_capital(byte) && !is_small(byte);
}

/// Counts U+FFFD, and characters of UTF-8 that was read as Latin-1 or Windows-1252 and written
/// again.
std::int32_t count_replaced(std::string_view line) {
  std::int32_t count = 0;
  for (std::size_t i = 0; i + 2 < line.size(); ++i) {
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(line[i + at]); };
    if (byte(0) == 0xEF && byte(1) == 0xBF && byte(2) == 0xBD) {
      ++count;
      i += 2;
    } else if (byte(0) == 0xC3 && is_between(byte(1), 0x82, 0x83) && i + 3 < line.size()) {
      constexpr std::string_view kOfWindows = "\x92\x93\xa0\xa1\xb8\xbd\xbe";
      const bool is_replaced =
          (byte(2) == 0xC2 && is_between(byte(3), 0x80, 0xBF)) ||
          (byte(2) == 0xC5 && kOfWindows.find(line[i + 3]) != std::string_view::npos) ||
          (byte(2) == 0xE2 && is_between(byte(3), 0x80, 0x84));
      if (is_replaced && !ends_capitals(line, i)) {
        ++count;
        i += 3;
      }
    }
  }
  return count;
}

/// Whether a code point is of a script without blanks between words below U+2000: Thai, Lao,
/// Tibetan, Burmese; Khmer; Tai Le to New Tai Lue; Tai Tham; Balinese to Batak.
bool is_without_blanks(std::size_t code_point) {
  constexpr std::size_t kRanges[][2] = {
      {0xE00, 0x10A0}, {0x1780, 0x1800}, {0x1950, 0x1A00}, {0x1A20, 0x1AB0}, {0x1B00, 0x1C00}};
  return std::any_of(std::begin(kRanges), std::end(kRanges), [&](const auto& range) {
    return code_point >= range[0] && code_point < range[1];
  });
}

/// Whether a code point is a letter of a script with blanks between words: an ASCII letter, or one
/// from U+00C0 to U+1FFF. Beyond lie punctuation and scripts without blanks, in which a question
/// mark stands between letters.
bool is_letter(std::size_t code_point) {
  if (code_point >= 0x80) {
    return code_point >= 0xC0 && code_point < 0x2000 && !is_without_blanks(code_point);
  }
  const auto byte = static_cast<unsigned char>(code_point);
  return is_capital(byte) || is_small(byte);
}

/// Counts question marks between letters, which stand for letters that were lost. Those in words
/// that look like addresses do not count.
std::int32_t count_lost_letters(std::string_view line) {
  std::int32_t count = 0;
  if (line.find('?') == std::string_view::npos) return 0;
  for (std::size_t begin = 0, end = 0; begin < line.size(); begin = end + 1) {
    end = begin;
    while (end < line.size() && static_cast<unsigned char>(line[end]) > ' ') ++end;
    const std::string_view word = line.substr(begin, end - begin);
    if (word.find_first_of("/=&") != std::string_view::npos) continue;
    const std::size_t last = std::min(word.find_first_of(".:"), word.size());
    for (std::size_t at = word.find('?'); at < last; at = word.find('?', at + 1)) {
      if (at == 0 || at + 1 == word.size()) continue;
      std::size_t before = at - 1;
      while (before > 0 && (word[before] & 0xC0) == 0x80) --before;
      const char* data = word.data();
      count += is_letter(decode(data + before, data + at).code_point) &&
               is_letter(decode(data + at + 1, data + word.size()).code_point);
    }
  }
  return count;
}

}  // namespace

std::int32_t count_damage(std::string_view line) {
  return count_replaced(line) + count_lost_letters(line);
}

}  // namespace pycat
