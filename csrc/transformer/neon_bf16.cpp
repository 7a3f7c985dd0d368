#include "simd/neon_matrix.h"

#include "transformer/bfloat16_rows.h"
#include "transformer/whole_number_format.h"

namespace pycat {
namespace {

struct BytePairFormat : WholeNumberFormat<SignedBytePairs> {
  template <int C>
  static void to_words(const float* rows, std::int64_t row_stride, std::int64_t width,
                       std::uint32_t* words, float* scales) {
    WholeNumbers<SignedBytePairs>::to_words<C>(rows, row_stride, width, words, scales);
    pair_words<C>(words, width / kElements);
  }
};

/// Activations leave float32 rows: words lie in pairs only once both are known.
struct BFloat16PairFormat : BFloat16PairTile, BFloat16Rows, Float32Rows {
  static constexpr bool kActivatesToWords = false;

  template <int C>
  static void to_words(const float* rows, std::int64_t row_stride, std::int64_t width,
                       std::uint32_t* words, float* /*scales*/) {
    for (std::int64_t row = 0; row < width; row += 2) {
      for (int c = 0; c < C; ++c) {
        const float* at = rows + row * row_stride + c * kLanes;
        const uint16x4_t even = vreinterpret_u16_bf16(vcvt_bf16_f32(load(at)));
        const uint16x4_t odd = vreinterpret_u16_bf16(vcvt_bf16_f32(load(at + row_stride)));
        const uint16x8_t pairs = vcombine_u16(vzip1_u16(even, odd), vzip2_u16(even, odd));
        store_ints(words + (row / 2 * C + c) * kLanes, vreinterpretq_s32_u16(pairs));
      }
    }
    pair_words<C>(words, width / kElements);
  }
};

}  // namespace

const PanelFormat kNeonBFloat16 = panel_format<BFloat16PairFormat, 4, 4>();
const PanelFormat kNeonI8mmInt8 = panel_format<BytePairFormat, 4, 4>();

}  // namespace pycat
