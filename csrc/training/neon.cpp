#include "simd/neon.h"

#include "training/attention_loops.h"
#include "training/loss_loops.h"

namespace pycat {

const TrainingKernels kNeonTraining = {attend_forward, attend_backward, loss_and_gradient};

}  // namespace pycat
