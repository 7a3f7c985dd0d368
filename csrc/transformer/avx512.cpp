#include "simd/avx512.h"

#include "simd/seven_bit_dot.h"
#include "transformer/linear.h"
#include "transformer/norm_attention.h"
#include "transformer/whole_number_format.h"

namespace pycat {

const PanelMath kAvx512Math = {32, kLanes, normalize<2>, rotate<2>, attend<2>};
const PanelFormat kAvx512Float32 = panel_format<Float32Format, 12, 2>();
const PanelFormat kAvx512Int8 = panel_format<WholeNumberFormat<SevenBitDot>, 12, 2>();

}  // namespace pycat
