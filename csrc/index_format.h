#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

// The MMIDIDX index: magic[9], version u64, dtype code u8, n u64, length i32[n], pointer i64[n].
// Lengths count tokens, pointers are byte offsets into the .bin file.

namespace pycat {

// Headers are little-endian but arrays are native: elsewhere the bytes would mean something else.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "pycat reads corpora on little-endian hosts");

// The literal's own terminator is the ninth byte.
inline constexpr char kIndexMagic[] = "MMIDIDX\0";
inline constexpr std::uint64_t kMagicBytes = sizeof(kIndexMagic);
inline constexpr std::uint64_t kIndexVersion = 1;

inline constexpr std::uint64_t kVersionOffset = kMagicBytes;
inline constexpr std::uint64_t kTypeOffset = kVersionOffset + 8;
inline constexpr std::uint64_t kCountOffset = kTypeOffset + 1;
inline constexpr std::uint64_t kHeaderBytes = kCountOffset + 8;

inline constexpr std::uint64_t kLengthBytes = 4;
inline constexpr std::uint64_t kPointerBytes = 8;
inline constexpr std::uint64_t kEntryBytes = kLengthBytes + kPointerBytes;

struct TokenType {
  std::uint8_t code;
  std::uint8_t num_bytes;
  std::string_view name;  // numpy's
};

// Codes 6 and 7 are floats (and mean different ones to fairseq and Megatron).
inline constexpr std::array<TokenType, 8> kTokenTypes{{
    {1, 1, "uint8"},
    {2, 1, "int8"},
    {3, 2, "int16"},
    {4, 4, "int32"},
    {5, 8, "int64"},
    {8, 2, "uint16"},
    {9, 4, "uint32"},
    {10, 8, "uint64"},
}};

/// Reads a T at any address: the arrays of an index are never aligned.
template <typename T>
T load(const std::byte* address) noexcept {
  T value;
  std::memcpy(&value, address, sizeof value);
  return value;
}

}  // namespace pycat
