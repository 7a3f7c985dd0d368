#include "simd/neon_dot.h"

#include "transformer/whole_number_format.h"

namespace pycat {

const PanelFormat kNeonDotInt8 = panel_format<WholeNumberFormat<SignedByteDot>, 4, 4>();

}  // namespace pycat
