#include "simd/avx512_vnni.h"

#include "cross_entropy/linear_loop.h"

namespace pycat {

const LinearKernel kAvx512VnniInt8Kernel = {12, 32, false,
                                            score_linear<WholeNumbers<VnniByteDot>, 12, 2>};

}  // namespace pycat
