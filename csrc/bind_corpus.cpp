#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <stdexcept>
#include <string>

#include "bind.h"
#include "corpus.h"
#include "corpus_writer.h"

namespace py = pybind11;

namespace pycat {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

template <typename T>
void require_vector(const Array<T>& array, const char* name) {
  if ((array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) {
    throw std::invalid_argument(std::string(name) + " is not aligned in memory; pass a copy");
  }
  if (array.ndim() != 1) {
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(array.ndim()) +
                                " dimensions, expected 1");
  }
}

py::tuple gather(const IndexedFile& file, const Array<std::int64_t>& ids) {
  require_vector(ids, "ids");
  const auto num_ids = static_cast<std::size_t>(ids.size());
  const std::int64_t* ids_data = ids.data();
  IndexedFile::Slices located;
  {
    const py::gil_scoped_release release;
    located = file.locate(ids_data, num_ids);
  }
  Array<std::int32_t> tokens(located.num_tokens);
  Array<std::int32_t> cu_seqlens(ids.size() + 1);
  std::int32_t* tokens_data = tokens.mutable_data();
  std::int32_t* cu_seqlens_data = cu_seqlens.mutable_data();
  {
    const py::gil_scoped_release release;
    file.copy_tokens(located.slices, tokens_data, cu_seqlens_data);
  }
  return py::make_tuple(std::move(tokens), std::move(cu_seqlens));
}

void append(IndexedWriter& writer, const Array<std::int32_t>& tokens,
            const Array<std::int32_t>& lengths) {
  require_vector(tokens, "tokens");
  require_vector(lengths, "lengths");
  const auto num_tokens = static_cast<std::size_t>(tokens.size());
  const auto num_sequences = static_cast<std::size_t>(lengths.size());
  const std::int32_t* tokens_data = tokens.data();
  const std::int32_t* lengths_data = lengths.data();
  const py::gil_scoped_release release;
  writer.append(tokens_data, num_tokens, lengths_data, num_sequences);
}

void leave_context(IndexedWriter& writer, const py::object& type, const py::object& /*value*/,
                   const py::object& /*traceback*/) {
  const bool failed = !type.is_none();
  const py::gil_scoped_release release;
  if (failed) {
    writer.abort();
  } else {
    writer.close();
  }
}

}  // namespace

void bind_corpus(py::module_& module) {
  using release_gil = py::call_guard<py::gil_scoped_release>;

  py::class_<IndexedFile>(module, "IndexedFile")
      .def(py::init<std::filesystem::path, std::optional<std::int64_t>>(), py::arg("prefix"),
           py::kw_only(), py::arg("vocab_size") = py::none(), release_gil())
      .def("__len__", &IndexedFile::num_sequences)
      .def_property_readonly("num_tokens", &IndexedFile::num_tokens)
      .def_property_readonly("dtype",
                             [](const IndexedFile& file) { return file.token_type().name; })
      .def_property_readonly(
          "prefix", [](const IndexedFile& file) { return decode_path(file.prefix().native()); })
      .def("lengths",
           [](const IndexedFile& file) {
             Array<std::int32_t> lengths(static_cast<py::ssize_t>(file.num_sequences()));
             file.copy_lengths(lengths.mutable_data());
             return lengths;
           })
      .def("gather", &gather, py::arg("ids").noconvert());

  py::class_<IndexedWriter>(module, "IndexedWriter")
      .def(py::init<std::filesystem::path, std::string_view>(), py::arg("prefix"), py::kw_only(),
           py::arg("dtype"))
      .def("append", &append, py::arg("tokens").noconvert(), py::arg("lengths").noconvert())
      .def("close", &IndexedWriter::close, release_gil())
      .def("abort", &IndexedWriter::abort, release_gil())
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", &leave_context);
}

}  // namespace pycat
