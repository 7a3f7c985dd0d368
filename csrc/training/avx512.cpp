#include "simd/avx512.h"

#include "training/attention_loops.h"
#include "training/loss_loops.h"

namespace pycat {

const TrainingKernels kAvx512Training = {attend_forward, attend_backward, loss_and_gradient};

}  // namespace pycat
