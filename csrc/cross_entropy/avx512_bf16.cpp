#include "simd/avx512_bf16.h"

#include "cross_entropy/linear_loop.h"

namespace pycat {

// A tile of 12 rows by 32 tokens: 24 sums, 2 vectors of tokens and 1 of a row in 32 registers. Its
// 24 products need 14 loads, which two loads a cycle hide.
const LinearKernel kAvx512Bf16Kernel = {12, 32, true, score_linear<FloatTile<PairDot>, 12, 2>};

}  // namespace pycat
