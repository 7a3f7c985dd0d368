#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

namespace pycat {

/// A path or a message that names one; file names need not be UTF-8.
pybind11::str decode_path(const std::string& text);

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

}  // namespace pycat
