#include "simd/avx_vnni.h"

#include "cross_entropy/linear_loop.h"

namespace pycat {

const LinearKernel kAvxVnniInt8Kernel = {4, 24, false,
                                         score_linear<WholeNumbers<VnniByteDot>, 4, 3>};

}  // namespace pycat
