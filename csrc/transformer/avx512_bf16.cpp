#include "simd/avx512_bf16.h"

#include "transformer/linear.h"

namespace pycat {
namespace {

struct BFloat16Format : FloatTile<PairDot> {
  static constexpr std::int64_t kElements = 2;
  static constexpr bool kActivatesToWords = true;

  template <int C>
  static PYCAT_INLINE void put(void* out, std::int64_t row, int c, Floats even, Floats odd) {
    // Alternates elements of `even` and `odd`: each word is a pair of rows.
    const __m512i places =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
    std::uint32_t* at = static_cast<std::uint32_t*>(out) + (row / 2 * C + c) * kLanes;
    _mm512_storeu_si512(at, _mm512_permutexvar_epi16(places, halves));
  }

  template <int C>
  static void to_words(const float* rows, std::int64_t row_stride, std::int64_t width,
                       std::uint32_t* words, float* /*scales*/) {
    put_rows<BFloat16Format, C>(rows, row_stride, width, words);
  }

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

const PanelFormat kAvx512BFloat16 = panel_format<BFloat16Format, 12, 2>();

}  // namespace pycat
