#include "simd/avx512.h"

#include "transformer/linear.h"

namespace pycat {
namespace {

/// Products of words that are four bytes: unsigned bytes times signed bytes in one instruction.
struct ByteDot {
  using Words = __m512i;
  static PYCAT_SIMD Words load(const std::uint32_t* words) { return _mm512_loadu_si512(words); }
  static PYCAT_SIMD Words broadcast(std::uint32_t word) {
    return _mm512_set1_epi32(static_cast<int>(word));
  }
  static PYCAT_SIMD Words add(Words sum, Words a, Words b) {
    // With the intrinsic, GCC 12 copies every sum before it adds, half of them to memory.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
};

/// Tokens are unsigned bytes with an offset of 128, rows are signed bytes; each token and each row
/// has a scale. The sums of products are exact, and become float32 in their registers.
struct Int8Format : Float32Rows {
  static constexpr std::int64_t kHeaderWords = 3;
  static constexpr bool kActivatesToWords = false;

  template <int R, int C>
  static PYCAT_INLINE void multiply(const std::uint32_t* tile, const PanelProduct& product,
                                    Floats (&sums)[R][C]) {
    __m512i int_sums[R][C];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) int_sums[r][c] = ByteDot::broadcast(tile[2 * R + r]);
    }
    add_products<ByteDot>(tile + 3 * R, 1, R, product.words, C * kLanes, product.row_words,
                          int_sums);
    Floats scales[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) scales[c] = load(product.scales + c * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Floats bias = _mm512_castsi512_ps(ByteDot::broadcast(tile[r]));
      const Floats scale = _mm512_castsi512_ps(ByteDot::broadcast(tile[R + r]));
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        const Floats sum = _mm512_maskz_cvtepi32_ps(kAllLanes, int_sums[r][c]);
        sums[r][c] = multiply_add(sum * scale, scales[c], bias);
      }
    }
  }

  template <int C>
  static void to_words(const float* rows, std::int64_t row_stride, std::int64_t width,
                       std::uint32_t* words, float* scales) {
    Floats inverse[C];
    for (int c = 0; c < C; ++c) {
      Floats max_abs = broadcast(1e-30F);
      Floats nan_or_zero = broadcast(0.0F);  // NaN if a feature is: bytes have no NaN
      for (std::int64_t row = 0; row < width; ++row) {
        const Floats x = load(rows + row * row_stride + c * kLanes);
        max_abs = max(max_abs, max(x, broadcast(0.0F) - x));
        nan_or_zero = multiply_add(x, broadcast(0.0F), nan_or_zero);
      }
      store(scales + c * kLanes, multiply_add(max_abs, broadcast(1.0F / 127.0F), nan_or_zero));
      inverse[c] = broadcast(127.0F) / max_abs;
    }
    const __m512i offset = _mm512_set1_epi32(128);
    for (std::int64_t row = 0; row < width; row += 4) {
      for (int c = 0; c < C; ++c) {
        __m512i bytes[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const Floats x = load(rows + (row + i) * row_stride + c * kLanes) * inverse[c];
          bytes[i] = _mm512_add_epi32(_mm512_maskz_cvtps_epi32(kAllLanes, x), offset);
        }
        const auto shifted = [](__m512i x, unsigned bits) {
          return _mm512_maskz_slli_epi32(kAllLanes, x, bits);
        };
        const __m512i low = _mm512_or_si512(bytes[0], shifted(bytes[1], 8));
        const __m512i high = _mm512_or_si512(shifted(bytes[2], 16), shifted(bytes[3], 24));
        _mm512_storeu_si512(words + (row / 4 * C + c) * kLanes, _mm512_or_si512(low, high));
      }
    }
  }
};

}  // namespace

const PanelFormat kAvx512Int8 = panel_format<Int8Format, 12, 2>(4);

}  // namespace pycat
