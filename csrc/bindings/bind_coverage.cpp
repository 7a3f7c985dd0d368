#include <pybind11/numpy.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bind.h"
#include "filters/ngram_coverage.h"

namespace py = pybind11;

namespace pycat {
namespace {

using Ids = py::array_t<std::int64_t, py::array::c_style>;

/// A choice and the array of ids that it reads.
struct HeldCoverage {
  Ids ids;
  std::unique_ptr<NgramCoverage> coverage;
};

HeldCoverage make(std::shared_ptr<const IndexedFile> src, std::shared_ptr<const IndexedFile> tgt,
                  Ids ids, std::int64_t num_cells, double decay, double tolerance,
                  std::int64_t num_threads) {
  require_vector(ids, "ids");
  HeldCoverage held{std::move(ids), nullptr};
  const std::int64_t* data = held.ids.data();
  const auto num_pairs = static_cast<std::int64_t>(held.ids.size());
  const ReleaseGil release;
  held.coverage = std::make_unique<NgramCoverage>(
      std::move(src), std::move(tgt), data, num_pairs,
      NgramCoverage::Options{num_cells, decay, tolerance, num_threads});
  return held;
}

void require_range(const HeldCoverage& held, std::int64_t begin, std::int64_t end) {
  if (0 <= begin && begin <= end && end <= held.coverage->num_pairs()) return;
  throw std::out_of_range(
      "begin is " + std::to_string(begin) + " and end " + std::to_string(end) +
      ", expected 0 <= begin <= end <= " + std::to_string(held.coverage->num_pairs()));
}

}  // namespace

void bind_coverage(py::module_& module) {
  py::class_<HeldCoverage>(module, "NgramCoverage")
      .def(py::init(&make), py::arg("src").none(false), py::arg("tgt").none(false),
           py::arg("ids").noconvert(), py::kw_only(), py::arg("num_cells"), py::arg("decay"),
           py::arg("tolerance"), py::arg("num_threads"))
      .def(
          "count",
          [](const HeldCoverage& held, std::int64_t begin, std::int64_t end) {
            require_range(held, begin, end);
            const ReleaseGil release;
            held.coverage->count(begin, end);
          },
          py::arg("begin"), py::arg("end"))
      .def("weigh",
           [](const HeldCoverage& held) {
             const ReleaseGil release;
             held.coverage->weigh();
           })
      .def(
          "measure",
          [](const HeldCoverage& held, std::int64_t begin, std::int64_t end) {
            require_range(held, begin, end);
            py::array_t<float> gains(end - begin);
            float* data = gains.mutable_data();
            {
              const ReleaseGil release;
              held.coverage->measure(begin, end, data);
            }
            return gains;
          },
          py::arg("begin"), py::arg("end"))
      .def(
          "choose",
          [](const HeldCoverage& held, std::int64_t max_chosen) {
            std::vector<std::int64_t> rows;
            {
              const ReleaseGil release;
              rows = held.coverage->choose(max_chosen);
            }
            return py::array_t<std::int64_t>(static_cast<py::ssize_t>(rows.size()), rows.data());
          },
          py::arg("max_chosen"));
}

}  // namespace pycat
