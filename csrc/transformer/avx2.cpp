#include "simd_avx2.h"

#include "transformer_math.h"
#include "transformer_product.h"

namespace pycat {

const PanelMath kAvx2Math = {24, kLanes, normalize<3>, attend<3>};
const PanelFormat kAvx2Float32 = panel_format<Float32Format, 4, 3>(1);

}  // namespace pycat
