#pragma once

#include <cstdint>

namespace pycat {
namespace {

/// Rows of a weight as pairs of bfloat16, rounded to the nearest.
struct BFloat16Rows {
  static constexpr std::int64_t kElements = 2;

  /// PanelFormat::pack_row.
  static void pack_row(const float* row, std::int64_t width, std::uint32_t* words, float* /*scale*/,
                       std::uint32_t* /*offset*/) {
    auto* halves = reinterpret_cast<std::uint16_t*>(words);  // lie as the pairs of a word do
    for (std::int64_t i = 0; i < width; ++i) {
      std::uint32_t bits;
      __builtin_memcpy(&bits, row + i, sizeof(bits));
      const bool is_nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
      const std::uint32_t rounded = bits + 0x7FFFU + ((bits >> 16) & 1U);
      halves[i] = static_cast<std::uint16_t>((is_nan ? bits | 0x400000U : rounded) >> 16);
    }
  }
};

}  // namespace
}  // namespace pycat
