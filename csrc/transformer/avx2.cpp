#include "simd/avx2.h"

#include "simd/seven_bit_dot.h"
#include "transformer/linear.h"
#include "transformer/norm_attention.h"
#include "transformer/whole_number_format.h"

namespace pycat {

const PanelMath kAvx2Math = {24, kLanes, normalize<3>, rotate<3>, attend<3>};
const PanelFormat kAvx2Float32 = panel_format<Float32Format, 4, 3>();
const PanelFormat kAvx2Int8 = panel_format<WholeNumberFormat<SevenBitDot>, 4, 3>();

}  // namespace pycat
