#include "simd/avx2.h"

#include "transformer/linear.h"
#include "transformer/norm_attention.h"

namespace pycat {

const PanelMath kAvx2Math = {24, kLanes, normalize<3>, attend<3>};
const PanelFormat kAvx2Float32 = panel_format<Float32Format, 4, 3>(1);

}  // namespace pycat
