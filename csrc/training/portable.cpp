#include "simd/portable.h"

#include "training/attention_loops.h"
#include "training/loss_loops.h"

namespace pycat {

const TrainingKernels kPortableTraining = {attend_forward, attend_backward, loss_and_gradient};

}  // namespace pycat
