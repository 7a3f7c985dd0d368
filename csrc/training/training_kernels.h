#pragma once

#include "simd/cpu_isa.h"
#include "training/kernel.h"

namespace pycat {

/// The loops of an instruction set.
const TrainingKernels& training_kernels(CpuIsa isa);

}  // namespace pycat
