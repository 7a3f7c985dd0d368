#pragma once

// Rows of float32 or bfloat16, read and written as float32. The source of each instruction set
// includes this file.

#include <cstdint>

namespace pycat {
namespace {

/// Copies numbers as float32; `from` holds float32, or bfloat16 as 16-bit words.
inline void read_row(const void* from, bool bfloat16, std::int64_t count, float* out) {
  if (!bfloat16) {
    const float* floats = static_cast<const float*>(from);
    for (std::int64_t i = 0; i < count; ++i) out[i] = floats[i];
    return;
  }
  const auto* halves = static_cast<const std::uint16_t*>(from);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(halves[i]) << 16;
    __builtin_memcpy(out + i, &bits, sizeof(bits));
  }
}

/// Writes float32 as they are, or rounded to the nearest bfloat16.
inline void write_row(const float* from, bool bfloat16, std::int64_t count, void* out) {
  if (!bfloat16) {
    float* floats = static_cast<float*>(out);
    for (std::int64_t i = 0; i < count; ++i) floats[i] = from[i];
    return;
  }
  auto* halves = static_cast<std::uint16_t*>(out);
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, from + i, sizeof(bits));
    const std::uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    const bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    halves[i] = static_cast<std::uint16_t>(is_nan ? 0x7FC0 : rounded);
  }
}

}  // namespace
}  // namespace pycat
