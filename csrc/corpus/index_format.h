#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

// The two layouts of an MMIDIDX index, field after field:
//   fairseq:  magic[9], version u64, dtype code u8, n u64, length i32[n], pointer i64[n]
//   Megatron: magic[9], version u64, dtype code u8, n u64, d u64, length i32[n], pointer i64[n],
//             document i64[d], and i8[n] more if multimodal
// Lengths count tokens, pointers are byte offsets into the .bin file, and documents are sequence
// numbers. Only the size of the file tells the layouts apart.

namespace pycat {

// The format's headers are little-endian, but its arrays have the byte order of the host.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "pycat reads corpora on little-endian hosts");

enum class Layout { kFairseq, kMegatron };

// The literal's terminating 0 is the ninth byte.
inline constexpr char kIndexMagic[] = "MMIDIDX\0";
inline constexpr std::uint64_t kMagicBytes = sizeof(kIndexMagic);
inline constexpr std::uint64_t kIndexVersion = 1;

inline constexpr std::uint64_t kVersionOffset = kMagicBytes;
inline constexpr std::uint64_t kTypeOffset = kVersionOffset + 8;
inline constexpr std::uint64_t kCountOffset = kTypeOffset + 1;
inline constexpr std::uint64_t kHeaderBytes = kCountOffset + 8;
inline constexpr std::uint64_t kDocumentCountBytes = 8;  // Megatron's, behind the header

inline constexpr std::uint64_t kLengthBytes = 4;
inline constexpr std::uint64_t kPointerBytes = 8;
inline constexpr std::uint64_t kEntryBytes = kLengthBytes + kPointerBytes;
inline constexpr std::uint64_t kDocumentBytes = 8;

struct TokenType {
  std::uint8_t code;
  std::uint8_t num_bytes;
  std::string_view name;  // numpy's
};

// Codes 6 and 7 are floats, of different types in fairseq and Megatron.
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

/// Reads a T at any address: the arrays of an index are not aligned.
template <typename T>
T load(const std::byte* address) noexcept {
  T value;
  std::memcpy(&value, address, sizeof value);
  return value;
}

}  // namespace pycat
