#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/bind.h"
#include "filters/ibm_model1.h"

namespace py = pybind11;

namespace pycat {
namespace {

using Ids = py::array_t<std::int64_t, py::array::c_style>;

/// A model and the array of ids that it reads.
struct HeldModel {
  std::optional<Ids> ids;
  std::unique_ptr<IbmModel1> model;
};

HeldModel make(std::shared_ptr<const IndexedFile> src, std::shared_ptr<const IndexedFile> tgt,
               std::optional<Ids> ids, std::int64_t max_sample, std::int64_t max_cells,
               std::int64_t num_threads) {
  if (ids) require_vector(*ids, "ids");
  HeldModel held{std::move(ids), nullptr};
  const std::int64_t* data = held.ids ? held.ids->data() : nullptr;
  const auto num_pairs =
      held.ids ? held.ids->size() : static_cast<std::int64_t>(src->num_sequences());
  const ReleaseGil release;
  held.model = std::make_unique<IbmModel1>(std::move(src), std::move(tgt), data, num_pairs,
                                           IbmModel1::Options{max_sample, max_cells, num_threads});
  return held;
}

void require_range(std::int64_t begin, std::int64_t end, std::int64_t size) {
  if (0 <= begin && begin <= end && end <= size) return;
  throw std::out_of_range("begin is " + std::to_string(begin) + " and end " + std::to_string(end) +
                          ", expected 0 <= begin <= end <= " + std::to_string(size));
}

void count(const HeldModel& held, std::int64_t begin, std::int64_t end) {
  require_range(begin, end, held.model->num_sampled());
  const ReleaseGil release;
  held.model->count(begin, end);
}

py::array_t<float> score(const HeldModel& held, std::int64_t begin, std::int64_t end) {
  require_range(begin, end, held.model->num_pairs());
  static_assert(sizeof(SideScores) == 2 * sizeof(float));
  py::array_t<float> result(std::vector<py::ssize_t>{2, end - begin, 2});
  auto* tgt = reinterpret_cast<SideScores*>(result.mutable_data());
  {
    const ReleaseGil release;
    held.model->score(begin, end, tgt, tgt + (end - begin));
  }
  return result;
}

}  // namespace

void bind_ibm_model1(py::module_& module) {
  py::class_<HeldModel>(module, "IbmModel1")
      .def(py::init(&make), py::arg("src").none(false), py::arg("tgt").none(false),
           py::arg("ids").noconvert().none(true), py::kw_only(), py::arg("max_sample"),
           py::arg("max_cells"), py::arg("num_threads"))
      .def_property_readonly("num_sampled",
                             [](const HeldModel& held) { return held.model->num_sampled(); })
      .def_property_readonly("num_cells",
                             [](const HeldModel& held) { return held.model->num_cells(); })
      .def("count", &count, py::arg("begin"), py::arg("end"))
      .def("start_round",
           [](const HeldModel& held) {
             const ReleaseGil release;
             held.model->start_round();
           })
      .def("score", &score, py::arg("begin"), py::arg("end"));
}

}  // namespace pycat
