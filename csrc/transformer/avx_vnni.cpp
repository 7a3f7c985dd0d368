#include "simd/avx_vnni.h"

#include "transformer/whole_number_format.h"

namespace pycat {

const PanelFormat kAvxVnniInt8 = panel_format<WholeNumberFormat<VnniByteDot>, 4, 3>();

}  // namespace pycat
