#include "simd/avx_vnni.h"

#include "cross_entropy/linear_loop.h"

namespace pycat {

const LinearKernel kAvxVnniInt16Kernel = {4, 24, false,
                                          score_linear<WholeNumbers<VnniShortDot>, 4, 3>};

}  // namespace pycat
