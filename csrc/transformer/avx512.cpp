#include "simd/avx512.h"

#include "transformer/linear.h"
#include "transformer/norm_attention.h"

namespace pycat {

const PanelMath kAvx512Math = {32, kLanes, normalize<2>, attend<2>};
const PanelFormat kAvx512Float32 = panel_format<Float32Format, 12, 2>(1);

}  // namespace pycat
