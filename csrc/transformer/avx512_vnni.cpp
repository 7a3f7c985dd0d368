#include "simd/avx512_vnni.h"

#include "transformer/whole_number_format.h"

namespace pycat {

const PanelFormat kAvx512VnniInt8 = panel_format<WholeNumberFormat<VnniByteDot>, 12, 2>();

}  // namespace pycat
