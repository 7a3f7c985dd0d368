#include "simd/neon.h"

#include "transformer/whole_number_format.h"

namespace pycat {
namespace {

/// Four signed bytes a word on both sides: tokens need no offset.
struct SignedByteDot : WordByWord<SignedByteDot> {
  static constexpr int kElements = 4;
  static constexpr std::uint32_t kTokenOffset = 0;
  static PYCAT_SIMD float max_magnitude(std::int64_t /*width*/) { return 127.0F; }
  static PYCAT_SIMD Ints add(Ints sum, Ints tokens, Ints rows) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(tokens), vreinterpretq_s8_s32(rows));
  }
};

}  // namespace

const PanelFormat kNeonDotInt8 = panel_format<WholeNumberFormat<SignedByteDot>, 4, 4>();

}  // namespace pycat
