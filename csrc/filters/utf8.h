#pragma once

#include <array>
#include <cstddef>
#include <limits>

namespace pycat {

inline bool is_between(unsigned char byte, unsigned low, unsigned high) {
  return byte >= low && byte <= high;
}
inline bool is_capital(unsigned char byte) { return is_between(byte, 'A', 'Z'); }
inline bool is_small(unsigned char byte) { return is_between(byte, 'a', 'z'); }

/// A code point and the number of its bytes in UTF-8. An invalid byte is a code point beyond all
/// tables, of one byte.
struct Decoded {
  std::size_t code_point;
  std::size_t num_bytes;
};

/// What `decode` gives for a byte that is not valid UTF-8.
constexpr std::size_t kInvalid = std::numeric_limits<std::size_t>::max();

/// Decodes the code point at `at`, of a line that ends at `end`.
inline Decoded decode(const char* at, const char* end) {
  const auto first = static_cast<unsigned char>(*at);
  if (first < 0x80) return {first, 1};
  const std::size_t num_bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || num_bytes > static_cast<std::size_t>(end - at)) {
    return {kInvalid, 1};
  }
  std::size_t code_point = first & (0x7Fu >> num_bytes);
  for (std::size_t i = 1; i < num_bytes; ++i) {
    const auto byte = static_cast<unsigned char>(at[i]);
    if ((byte & 0xC0) != 0x80) return {kInvalid, 1};
    code_point = code_point << 6 | (byte & 0x3Fu);
  }
  constexpr std::array<std::size_t, 3> kMinCodePoint{0x80, 0x800, 0x10000};
  if (code_point < kMinCodePoint[num_bytes - 2]) return {kInvalid, 1};
  return {code_point, num_bytes};
}

}  // namespace pycat
