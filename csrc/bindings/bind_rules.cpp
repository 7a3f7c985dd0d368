#include <pybind11/numpy.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/bind.h"
#include "filters/duplicate_groups.h"
#include "filters/pair_measures.h"

namespace py = pybind11;

namespace pycat {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

/// Views of the lines of a list. A tuple keeps the lines: another thread may change the list.
struct Lines {
  explicit Lines(const py::list& list) : held(list) {
    views.reserve(held.size());
    for (const py::handle& line : held) views.push_back(line.cast<py::bytes>());
  }

  py::tuple held;
  std::vector<std::string_view> views;
};

template <typename T>
T* add_column(py::dict& columns, const char* name, std::size_t size) {
  Array<T> column(static_cast<py::ssize_t>(size));
  T* data = column.mutable_data();
  columns[name] = std::move(column);
  return data;
}

py::dict measure_pairs(const py::list& src, const py::list& tgt, const Array<std::uint64_t>& folded,
                       const Array<std::uint8_t>& kinds) {
  require_vector(folded, "folded");
  require_vector(kinds, "kinds");
  const Lines sources(src), targets(tgt);
  const std::size_t size = sources.views.size();
  if (targets.views.size() != size || folded.size() != kinds.size()) {
    throw std::invalid_argument(
        std::to_string(size) + " sources, " + std::to_string(targets.views.size()) + " targets, " +
        std::to_string(folded.size()) + " folded code points of " + std::to_string(kinds.size()) +
        " kinds; expected two of each length");
  }
  py::dict columns;
  auto* src_chars = add_column<std::int32_t>(columns, "src_chars", size);
  auto* tgt_chars = add_column<std::int32_t>(columns, "tgt_chars", size);
  auto* src_letters = add_column<std::int32_t>(columns, "src_letters", size);
  auto* tgt_letters = add_column<std::int32_t>(columns, "tgt_letters", size);
  auto* src_names = add_column<float>(columns, "src_names", size);
  auto* tgt_names = add_column<float>(columns, "tgt_names", size);
  auto* overlap = add_column<float>(columns, "overlap", size);
  auto* num_grams = add_column<std::int32_t>(columns, "num_grams", size);
  auto* letters = add_column<float>(columns, "letters", size);
  auto* number_mismatch = add_column<float>(columns, "number_mismatch", size);
  auto* num_damaged = add_column<std::int32_t>(columns, "num_damaged", size);
  auto* repetition = add_column<float>(columns, "repetition", size);
  auto* src_forms = add_column<std::uint8_t>(columns, "src_forms", size);
  auto* tgt_forms = add_column<std::uint8_t>(columns, "tgt_forms", size);
  auto* src_hash = add_column<std::uint64_t>(columns, "src_hash", size);
  auto* tgt_hash = add_column<std::uint64_t>(columns, "tgt_hash", size);
  auto* pair_hash = add_column<std::uint64_t>(columns, "pair_hash", size);
  std::array<std::uint64_t*, kNumBands> bands;
  for (std::size_t band = 0; band < kNumBands; ++band) {
    bands[band] =
        add_column<std::uint64_t>(columns, ("band_" + std::to_string(band)).c_str(), size);
  }
  PairMeasurer measurer({folded.data(), kinds.data(), static_cast<std::size_t>(folded.size())});
  const ReleaseGil release;
  for (std::size_t i = 0; i < size; ++i) {
    const PairMeasures measures = measurer.measure(sources.views[i], targets.views[i]);
    src_chars[i] = measures.num_chars[0];
    tgt_chars[i] = measures.num_chars[1];
    src_letters[i] = measures.num_letters[0];
    tgt_letters[i] = measures.num_letters[1];
    src_names[i] = measures.names[0];
    tgt_names[i] = measures.names[1];
    overlap[i] = measures.overlap;
    num_grams[i] = measures.num_grams;
    letters[i] = measures.letters;
    number_mismatch[i] = measures.number_mismatch;
    num_damaged[i] = measures.num_damaged;
    repetition[i] = measures.repetition;
    src_forms[i] = measures.forms[0];
    tgt_forms[i] = measures.forms[1];
    src_hash[i] = measures.hashes[0];
    tgt_hash[i] = measures.hashes[1];
    pair_hash[i] = measures.hashes[2];
    for (std::size_t band = 0; band < kNumBands; ++band) bands[band][i] = measures.bands[band];
  }
  return columns;
}

Array<std::int64_t> first_duplicates_of(const Array<std::uint64_t>& hashes) {
  require_vector(hashes, "hashes");
  Array<std::int64_t> first(hashes.size());
  std::int64_t* data = first.mutable_data();
  const ReleaseGil release;
  first_duplicates(hashes.data(), static_cast<std::size_t>(hashes.size()), data);
  return first;
}

void join_rows(const Array<std::uint64_t>& hashes, Array<std::int64_t>& roots) {
  require_vector(hashes, "hashes");
  require_vector(roots, "roots");
  if (hashes.size() != roots.size()) {
    throw std::invalid_argument(std::to_string(hashes.size()) + " hashes of " +
                                std::to_string(roots.size()) + " rows; expected as many");
  }
  const auto size = static_cast<std::size_t>(roots.size());
  std::int64_t* data = roots.mutable_data();
  for (std::size_t row = 0; row < size; ++row) {
    if (data[row] < 0 || data[row] > static_cast<std::int64_t>(row)) {
      throw std::invalid_argument("root " + std::to_string(data[row]) + " of row " +
                                  std::to_string(row) + " is not the row itself or one before it");
    }
  }
  const ReleaseGil release;
  join_duplicates(hashes.data(), size, data);
  settle_roots(size, data);
}

Array<std::int64_t> count_copies_before(const Array<std::int64_t>& groups) {
  require_vector(groups, "groups");
  Array<std::int64_t> counts(groups.size());
  std::int64_t* data = counts.mutable_data();
  const std::int64_t* begin = groups.data();
  const auto size = static_cast<std::size_t>(groups.size());
  const ReleaseGil release;
  const std::int64_t max_group = size == 0 ? 0 : *std::max_element(begin, begin + size);
  const auto num_groups = static_cast<std::size_t>(std::max<std::int64_t>(max_group, 0)) + 1;
  copies_before(begin, size, num_groups, data);
  return counts;
}

}  // namespace

void bind_rules(py::module_& module) {
  module.def("measure_pairs", &measure_pairs, py::arg("src"), py::arg("tgt"), py::kw_only(),
             py::arg("folded").noconvert(), py::arg("kinds").noconvert());
  module.def("first_duplicates", &first_duplicates_of, py::arg("hashes").noconvert());
  module.def("join_duplicates", &join_rows, py::arg("hashes").noconvert(),
             py::arg("roots").noconvert());
  module.def("copies_before", &count_copies_before, py::arg("groups").noconvert());
}

}  // namespace pycat
