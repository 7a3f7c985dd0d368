#include "simd/neon_dot.h"

#include "cross_entropy/linear_loop.h"

namespace pycat {

const LinearKernel kNeonDotInt8Kernel = {4, 16, false,
                                         score_linear<WholeNumbers<SignedByteDot>, 4, 4>};

}  // namespace pycat
