#include "simd/portable.h"

#include "transformer/linear.h"
#include "transformer/norm_attention.h"

namespace pycat {

const PanelMath kPortableMath = {8, kLanes, normalize<2>, rotate<2>, attend<2>};
const PanelFormat kPortableFloat32 = panel_format<Float32Format, 4, 2>();

}  // namespace pycat
