#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "bindings/bind.h"
#include "ranking/radix_select.h"

namespace py = pybind11;

namespace pycat {
namespace {

template <typename T>
using Vector = py::array_t<T, py::array::c_style>;

template <typename T>
void require_size(const Vector<T>& array, const char* name, py::ssize_t size) {
  require_vector(array, name);
  if (array.size() != size) {
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(array.size()) +
                                " elements, expected " + std::to_string(size));
  }
}

RankedRows ranked_rows(const Vector<double>& scores, const Vector<std::int32_t>& groups,
                       const std::optional<Vector<std::int64_t>>& costs, py::ssize_t num_groups) {
  require_vector(scores, "scores");
  require_size(groups, "groups", scores.size());
  if (costs) require_size(*costs, "costs", scores.size());
  return {scores.data(), groups.data(), costs ? costs->data() : nullptr, scores.size(), num_groups};
}

[[noreturn]] void refuse_groups(std::int64_t num_groups) {
  throw std::invalid_argument("groups holds one that is out of range; expected below " +
                              std::to_string(num_groups));
}

void sum_digits_of(const Vector<double>& scores, const Vector<std::int32_t>& groups,
                   const std::optional<Vector<std::int64_t>>& costs,
                   const Vector<std::uint64_t>& heads, int known_bits, int digit_bits,
                   Vector<std::int64_t>& sums) {
  require_vector(heads, "heads");
  const RankedRows rows = ranked_rows(scores, groups, costs, heads.size());
  if (known_bits < 0 || digit_bits < 1 || digit_bits > 16 || known_bits + digit_bits > 64) {
    throw std::invalid_argument("found " + std::to_string(known_bits) + " known bits and " +
                                std::to_string(digit_bits) +
                                " of a digit, expected 1 to 16 of a digit and 64 at most together");
  }
  require_size(sums, "sums", heads.size() << digit_bits);
  std::int64_t* data = sums.mutable_data();
  bool in_range;
  {
    const ReleaseGil release;
    in_range = sum_digits(rows, heads.data(), known_bits, digit_bits, data);
  }
  if (!in_range) refuse_groups(rows.num_groups);
}

void take_above_keys(const Vector<double>& scores, const Vector<std::int32_t>& groups,
                     const std::optional<Vector<std::int64_t>>& costs,
                     const Vector<std::uint64_t>& keys, const Vector<bool>& whole,
                     Vector<std::int64_t>& left, Vector<bool>& taken) {
  require_vector(keys, "keys");
  const RankedRows rows = ranked_rows(scores, groups, costs, keys.size());
  require_size(whole, "whole", keys.size());
  require_size(left, "left", keys.size());
  require_size(taken, "taken", scores.size());
  std::int64_t* unspent = left.mutable_data();
  bool* data = taken.mutable_data();
  bool in_range;
  {
    const ReleaseGil release;
    in_range = take_above(rows, keys.data(), whole.data(), unspent, data);
  }
  if (!in_range) refuse_groups(rows.num_groups);
}

}  // namespace

void bind_ranking(py::module_& module) {
  module.def("sum_digits", &sum_digits_of, py::arg("scores").noconvert(),
             py::arg("groups").noconvert(), py::arg("costs").noconvert().none(true),
             py::arg("heads").noconvert(), py::kw_only(), py::arg("known_bits"),
             py::arg("digit_bits"), py::arg("sums").noconvert());
  module.def("take_above", &take_above_keys, py::arg("scores").noconvert(),
             py::arg("groups").noconvert(), py::arg("costs").noconvert().none(true),
             py::arg("keys").noconvert(), py::kw_only(), py::arg("whole").noconvert(),
             py::arg("left").noconvert(), py::arg("taken").noconvert());
}

}  // namespace pycat
