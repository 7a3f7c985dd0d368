#include "simd/neon.h"

namespace pycat {
namespace {

struct FromFloat32 {
  using Element = float;
  static constexpr Element kMinusInfinity = -__builtin_inff();
  static PYCAT_SIMD Floats load(const Element* at) { return vld1q_f32(at); }
};

struct FromBFloat16 {
  using Element = std::uint16_t;
  static constexpr Element kMinusInfinity = 0xFF80;
  static PYCAT_SIMD Floats load(const Element* at) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(at), 16));
  }
};

struct FromFloat16 {
  using Element = std::uint16_t;
  static constexpr Element kMinusInfinity = 0xFC00;
  static PYCAT_SIMD Floats load(const Element* at) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at)));
  }
};

}  // namespace
}  // namespace pycat

#include "cross_entropy/logits_loop.h"

namespace pycat {

// A tile of 4 rows by 16 tokens: 16 sums, 4 vectors of tokens and 1 of a row in 32 registers.
constexpr LinearKernel kLinear = {4, 16, false, score_linear<FloatTile<FloatDot>, 4, 4>};
const CrossEntropyKernels kNeonKernels = {kLinear, kLinear, score_logits};

}  // namespace pycat
