#include "simd/portable.h"

namespace pycat {
namespace {

struct FromFloat32 {
  using Element = float;
  static constexpr Element kMinusInfinity = -__builtin_inff();
  static PYCAT_SIMD Floats load(const Element* at) { return pycat::load(at); }
};

struct FromBFloat16 {
  using Element = std::uint16_t;
  static constexpr Element kMinusInfinity = 0xFF80;
  static PYCAT_SIMD Floats load(const Element* at) {
    const Ints bits = Ints{at[0], at[1], at[2], at[3]} << 16;
    Floats a;
    __builtin_memcpy(&a, &bits, sizeof(a));
    return a;
  }
};

struct FromFloat16 {
  using Element = std::uint16_t;
  static constexpr Element kMinusInfinity = 0xFC00;
  static PYCAT_SIMD Floats load(const Element* at) {
    return Floats{float16_value(at[0]), float16_value(at[1]), float16_value(at[2]),
                  float16_value(at[3])};
  }

 private:
  static PYCAT_SIMD float float16_value(std::uint32_t half) {
    const std::uint32_t sign = (half & 0x8000U) << 16;
    const std::uint32_t magnitude = half & 0x7FFFU;
    // The exponent's bias grows from 15 to 127: times 2^112, which serves subnormals too.
    std::uint32_t bits = magnitude << 13;
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    value *= 0x1p112F;
    __builtin_memcpy(&bits, &value, sizeof(bits));
    if (magnitude >= 0x7C00U) bits = 0x7F800000U | (magnitude << 13);
    bits |= sign;
    __builtin_memcpy(&value, &bits, sizeof(value));
    return value;
  }
};

}  // namespace
}  // namespace pycat

#include "cross_entropy/logits_loop.h"

namespace pycat {

constexpr LinearKernel kLinear = {4, 8, false, score_linear<FloatTile<FloatDot>, 4, 2>};
const CrossEntropyKernels kPortableKernels = {kLinear, kLinear, score_logits};

}  // namespace pycat
