#include "simd/neon_matrix.h"

#include "cross_entropy/linear_loop.h"

namespace pycat {

const LinearKernel kNeonBf16Kernel = {4, 16, true, score_linear<BFloat16PairTile, 4, 4>};
const LinearKernel kNeonI8mmInt8Kernel = {4, 16, false,
                                          score_linear<WholeNumbers<SignedBytePairs>, 4, 4>};

}  // namespace pycat
