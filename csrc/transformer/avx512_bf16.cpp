#include "simd/avx512_bf16.h"

#include "transformer/bfloat16_rows.h"
#include "transformer/linear.h"

namespace pycat {
namespace {

struct BFloat16Format : FloatTile<PairDot>, BFloat16Rows {
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
};

}  // namespace

const PanelFormat kAvx512BFloat16 = panel_format<BFloat16Format, 12, 2>();

}  // namespace pycat
