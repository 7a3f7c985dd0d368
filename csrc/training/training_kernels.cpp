#include "training/training_kernels.h"

namespace pycat {

const TrainingKernels& training_kernels(CpuIsa isa) {
  switch (isa) {
#ifdef PYCAT_X86
    case CpuIsa::kAvx2:
    case CpuIsa::kAvxVnni:
      return kAvx2Training;
    case CpuIsa::kAvx512:
    case CpuIsa::kAvx512Bf16:
      return kAvx512Training;
#endif
#ifdef PYCAT_ARM64
    case CpuIsa::kNeon:
    case CpuIsa::kNeonDot:
      return kNeonTraining;
#endif
    default:
      return kPortableTraining;
  }
}

}  // namespace pycat
