#include "simd/avx2.h"

namespace pycat {
namespace {

struct FromFloat32 {
  using Element = float;
  static constexpr Element kMinusInfinity = -__builtin_inff();
  static PYCAT_SIMD Floats load(const Element* at) { return _mm256_loadu_ps(at); }
};

struct FromBFloat16 {
  using Element = std::uint16_t;
  static constexpr Element kMinusInfinity = 0xFF80;
  static PYCAT_SIMD Floats load(const Element* at) {
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i_u*)at));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
  }
};

struct FromFloat16 {
  using Element = std::uint16_t;
  static constexpr Element kMinusInfinity = 0xFC00;
  static PYCAT_SIMD Floats load(const Element* at) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u*)at));
  }
};

}  // namespace
}  // namespace pycat

#include "cross_entropy/logits_loop.h"
#include "simd/seven_bit_dot.h"

namespace pycat {

// A tile of 4 rows by 24 tokens: 12 sums, 3 vectors of tokens and 1 of a row fill the 16 registers.
constexpr LinearKernel kLinear = {4, 24, false, score_linear<FloatTile<FloatDot>, 4, 3>};
const CrossEntropyKernels kAvx2Kernels = {kLinear, kLinear, score_logits};
const LinearKernel kAvx2Int8Kernel = {4, 24, false, score_linear<WholeNumbers<SevenBitDot>, 4, 3>};

}  // namespace pycat
