#include "simd/avx512.h"

namespace pycat {
namespace {

struct FromFloat32 {
  using Element = float;
  static constexpr Element kMinusInfinity = -__builtin_inff();
  static PYCAT_SIMD Floats load(const Element* at) { return _mm512_loadu_ps(at); }
};

struct FromBFloat16 {
  using Element = std::uint16_t;
  static constexpr Element kMinusInfinity = 0xFF80;
  static PYCAT_SIMD Floats load(const Element* at) {
    const __m512i bits =
        _mm512_maskz_cvtepu16_epi32(kAllLanes, _mm256_loadu_si256((const __m256i_u*)at));
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAllLanes, bits, 16));
  }
};

struct FromFloat16 {
  using Element = std::uint16_t;
  static constexpr Element kMinusInfinity = 0xFC00;
  static PYCAT_SIMD Floats load(const Element* at) {
    return _mm512_maskz_cvtph_ps(kAllLanes, _mm256_loadu_si256((const __m256i_u*)at));
  }
};

}  // namespace
}  // namespace pycat

#include "cross_entropy/logits_loop.h"
#include "simd/seven_bit_dot.h"

namespace pycat {

// The same tile as for pairs of bfloat16: see avx512_bf16.cpp.
constexpr LinearKernel kLinear = {12, 32, false, score_linear<FloatTile<FloatDot>, 12, 2>};
const CrossEntropyKernels kAvx512Kernels = {kLinear, kLinear, score_logits};
const LinearKernel kAvx512Int8Kernel = {12, 32, false,
                                        score_linear<WholeNumbers<SevenBitDot>, 12, 2>};

}  // namespace pycat
