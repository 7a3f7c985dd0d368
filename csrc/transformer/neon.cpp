#include "simd/neon.h"

#include "transformer/linear.h"
#include "transformer/norm_attention.h"
#include "transformer/whole_number_format.h"

namespace pycat {

const PanelMath kNeonMath = {16, kLanes, normalize<4>, rotate<4>, attend<4>};
const PanelFormat kNeonFloat32 = panel_format<Float32Format, 4, 4>();
const PanelFormat kNeonInt16 = panel_format<WholeNumberFormat<ShortDot>, 4, 4>();

}  // namespace pycat
