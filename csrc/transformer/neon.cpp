#include "simd/neon.h"

#include "transformer/linear.h"
#include "transformer/norm_attention.h"

namespace pycat {

const PanelMath kNeonMath = {16, kLanes, normalize<4>, rotate<4>, attend<4>};
const PanelFormat kNeonFloat32 = panel_format<Float32Format, 4, 4>();

}  // namespace pycat
