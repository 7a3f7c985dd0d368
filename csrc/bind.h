#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace pycat {

/// A path or a message that names one; file names need not be UTF-8.
pybind11::str decode_path(const std::string& text);

void bind_errors(pybind11::module_& module);
void bind_corpus(pybind11::module_& module);
void bind_cross_entropy(pybind11::module_& module);

}  // namespace pycat
