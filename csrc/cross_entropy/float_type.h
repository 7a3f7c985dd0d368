#pragma once

#include <cstdint>
#include <cstring>

#include "cross_entropy/kernel.h"

namespace pycat {

inline std::int64_t size_of(FloatType type) { return type == FloatType::kFloat32 ? 4 : 2; }

inline float float_of_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float bfloat16_value(std::uint16_t bits) {
  return float_of_bits(static_cast<std::uint32_t>(bits) << 16);
}

inline float float16_value(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t magnitude = bits & 0x7FFFU;
  // The exponent's bias grows from 15 to 127: times 2^112, which serves subnormals too.
  if (magnitude < 0x7C00U) {
    const float value = float_of_bits(magnitude << 13) * 0x1p112F;
    return sign != 0 ? -value : value;
  }
  return float_of_bits(sign | 0x7F800000U | (magnitude << 13));
}

/// Element `i` of an array of `type`.
inline float element(const void* array, FloatType type, std::int64_t i) {
  const char* at = static_cast<const char*>(array) + i * size_of(type);
  if (type == FloatType::kFloat32) {
    float value;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return type == FloatType::kBFloat16 ? bfloat16_value(bits) : float16_value(bits);
}

}  // namespace pycat
