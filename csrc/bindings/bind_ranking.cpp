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
  throw std::invalid_argument("groups holds a group that is out of range; expected below " +
                              std::to_string(num_groups));
}

void radix_histogram_of(const Vector<double>& scores, const Vector<std::int32_t>& groups,
                        const std::optional<Vector<std::int64_t>>& costs,
                        const Vector<std::uint64_t>& prefixes, int prefix_bits, int digit_bits,
                        Vector<std::int64_t>& histogram) {
  require_vector(prefixes, "prefixes");
  const RankedRows rows = ranked_rows(scores, groups, costs, prefixes.size());
  if (prefix_bits < 0 || digit_bits < 1 || digit_bits > 16 || prefix_bits + digit_bits > 64) {
    throw std::invalid_argument("found prefix_bits " + std::to_string(prefix_bits) +
                                " and digit_bits " + std::to_string(digit_bits) +
                                ", expected digit_bits 1 to 16 and at most 64 bits together");
  }
  require_size(histogram, "histogram", prefixes.size() << digit_bits);
  std::int64_t* data = histogram.mutable_data();
  bool in_range;
  {
    const ReleaseGil release;
    in_range = radix_histogram(rows, prefixes.data(), prefix_bits, digit_bits, data);
  }
  if (!in_range) refuse_groups(rows.num_groups);
}

void select_above_keys(const Vector<double>& scores, const Vector<std::int32_t>& groups,
                       const std::optional<Vector<std::int64_t>>& costs,
                       const Vector<std::uint64_t>& keys, const Vector<bool>& take_all,
                       Vector<std::int64_t>& budgets, Vector<bool>& selected) {
  require_vector(keys, "keys");
  const RankedRows rows = ranked_rows(scores, groups, costs, keys.size());
  require_size(take_all, "take_all", keys.size());
  require_size(budgets, "budgets", keys.size());
  require_size(selected, "selected", scores.size());
  std::int64_t* budgets_data = budgets.mutable_data();
  bool* selected_data = selected.mutable_data();
  bool in_range;
  {
    const ReleaseGil release;
    in_range = select_above(rows, keys.data(), take_all.data(), budgets_data, selected_data);
  }
  if (!in_range) refuse_groups(rows.num_groups);
}

}  // namespace

void bind_ranking(py::module_& module) {
  module.def("radix_histogram", &radix_histogram_of, py::arg("scores").noconvert(),
             py::arg("groups").noconvert(), py::arg("costs").noconvert().none(true),
             py::arg("prefixes").noconvert(), py::kw_only(), py::arg("prefix_bits"),
             py::arg("digit_bits"), py::arg("histogram").noconvert());
  module.def("select_above", &select_above_keys, py::arg("scores").noconvert(),
             py::arg("groups").noconvert(), py::arg("costs").noconvert().none(true),
             py::arg("keys").noconvert(), py::kw_only(), py::arg("take_all").noconvert(),
             py::arg("budgets").noconvert(), py::arg("selected").noconvert());
}

}  // namespace pycat
