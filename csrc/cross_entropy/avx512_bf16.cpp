#include "simd/avx512_bf16.h"

#include "cross_entropy/linear_loop.h"

namespace pycat {

// 12 rows by 32 tokens: 24 sums, 2 vectors of tokens and 1 of a row in 32 registers; 14 loads for
// 24 products, which two a cycle hide.
const LinearKernel kAvx512Bf16Kernel = {12, 32, true, score_linear<PairDot, 12, 2>};

}  // namespace pycat
