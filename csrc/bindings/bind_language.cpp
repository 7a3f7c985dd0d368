#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/bind.h"
#include "filters/language.h"

namespace py = pybind11;

namespace pycat {
namespace {

using Moves = py::array_t<std::uint32_t, py::array::c_style>;
using Rows = py::array_t<std::uint16_t, py::array::c_style>;
using Features = py::array_t<std::int32_t, py::array::c_style>;
using Halves = py::array_t<std::uint16_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;

class LanguageModel {
 public:
  LanguageModel(Moves moves, Rows rows, Features features, Halves weights, Floats prior)
      : moves_(std::move(moves)),
        rows_(std::move(rows)),
        features_(std::move(features)),
        weights_(std::move(weights)),
        prior_(std::move(prior)) {
    require_vector(moves_, "moves");
    require_vector(rows_, "rows");
    require_vector(features_, "features");
    require_vector(weights_, "weights");
    require_vector(prior_, "prior");
    if (prior_.size() == 0 || moves_.size() % 256 != 0 || features_.size() != rows_.size() ||
        weights_.size() % prior_.size() != 0) {
      throw std::invalid_argument("language model: the sizes of its tables do not fit together");
    }
    tables_ = {moves_.data(),
               moves_.size() / 256,
               rows_.data(),
               features_.data(),
               rows_.size(),
               weights_.data(),
               weights_.size() / prior_.size(),
               prior_.data(),
               prior_.size()};
    check_tables(tables_);
  }

  Floats probability(const py::list& lines, const std::vector<std::int64_t>& languages) const {
    for (const std::int64_t language : languages) {
      if (language < 0 || language >= tables_.num_languages) {
        throw std::invalid_argument("language " + std::to_string(language) +
                                    " is out of range; expected below " +
                                    std::to_string(tables_.num_languages));
      }
    }
    // The tuple keeps the lines: another thread may change the list.
    const py::tuple held(lines);
    std::vector<std::string_view> views;
    views.reserve(held.size());
    for (const py::handle& line : held) views.push_back(line.cast<py::bytes>());
    Floats result(static_cast<py::ssize_t>(views.size()));
    float* data = result.mutable_data();
    {
      const ReleaseGil release;
      language_probability(tables_, views, languages, data);
    }
    return result;
  }

 private:
  Moves moves_;
  Rows rows_;
  Features features_;
  Halves weights_;
  Floats prior_;
  LanguageTables tables_{};
};

}  // namespace

void bind_language(py::module_& module) {
  module.attr("LANGUAGE_BLOCK") = kLanguageBlock;
  py::class_<LanguageModel>(module, "LanguageModel",
                            "The probability that lines are in given languages.")
      .def(py::init<Moves, Rows, Features, Halves, Floats>(), py::kw_only(),
           py::arg("moves").noconvert(), py::arg("rows").noconvert(),
           py::arg("features").noconvert(), py::arg("weights").noconvert(),
           py::arg("prior").noconvert())
      .def("probability", &LanguageModel::probability, py::arg("lines"), py::arg("languages"));
}

}  // namespace pycat
