#pragma once

#include <cxxabi.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <stdexcept>
#include <string>

namespace pycat {

/// Python's string of a path, or of a message that holds one. File names may not be UTF-8.
pybind11::str decode_path(const std::string& text);

/// Releases the GIL for as long as it exists.
///
/// When the interpreter ends, Python up to 3.13 unwinds the threads that wait for the GIL.
/// Unwinding the destructor of pybind11's guard aborts the process. This destructor instead blocks
/// until the process ends, as Python does from 3.14 on.
class ReleaseGil {
 public:
  ReleaseGil() : state_(PyEval_SaveThread()) {}
  ReleaseGil(const ReleaseGil&) = delete;
  ReleaseGil& operator=(const ReleaseGil&) = delete;
  ~ReleaseGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      while (true) ::pause();
    }
  }

 private:
  PyThreadState* state_;
};

/// Throws std::invalid_argument unless `array` has one dimension and is aligned.
template <typename T>
void require_vector(const pybind11::array_t<T, pybind11::array::c_style>& array, const char* name) {
  if ((array.flags() & pybind11::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) {
    throw std::invalid_argument(std::string(name) + " is not aligned in memory; pass a copy");
  }
  if (array.ndim() != 1) {
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(array.ndim()) +
                                " dimensions, expected 1");
  }
}

void bind_errors(pybind11::module_& module);
void bind_corpus(pybind11::module_& module);
void bind_batches(pybind11::module_& module);
void bind_cross_entropy(pybind11::module_& module);
void bind_transformer(pybind11::module_& module);
void bind_language(pybind11::module_& module);
void bind_ibm_model1(pybind11::module_& module);
void bind_coverage(pybind11::module_& module);
void bind_ranking(pybind11::module_& module);
void bind_rules(pybind11::module_& module);
void bind_training(pybind11::module_& module);

}  // namespace pycat
