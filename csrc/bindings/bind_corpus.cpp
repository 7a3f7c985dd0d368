#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/bind.h"
#include "corpus/block_checksums.h"
#include "corpus/indexed_file.h"
#include "corpus/indexed_writer.h"

namespace py = pybind11;

namespace pycat {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

std::optional<Layout> layout_named(const std::optional<std::string>& name) {
  if (!name) return std::nullopt;
  if (*name == "fairseq") return Layout::kFairseq;
  if (*name == "megatron") return Layout::kMegatron;
  throw std::invalid_argument("layout is '" + *name + "', expected 'fairseq' or 'megatron'");
}

py::tuple gather(const IndexedFile& file, const Array<std::int64_t>& ids) {
  require_vector(ids, "ids");
  const auto num_ids = static_cast<std::size_t>(ids.size());
  const std::int64_t* ids_data = ids.data();
  std::vector<Slice> slices;
  Extent extent{};
  {
    const ReleaseGil release;
    file.locate(ids_data, num_ids, slices);
    extent = measure(slices);
  }
  Array<std::int32_t> tokens(extent.num_tokens);
  Array<std::int32_t> cu_seqlens(ids.size() + 1);
  std::int32_t* tokens_data = tokens.mutable_data();
  std::int32_t* boundary = cu_seqlens.mutable_data();
  {
    const ReleaseGil release;
    file.copy(slices, {0, 0}, OutputType::kInt32, tokens_data,
              static_cast<std::size_t>(extent.num_tokens));
    *boundary = 0;
    for (const Slice& slice : slices) {
      boundary[1] = boundary[0] + slice.length;
      ++boundary;
    }
  }
  return py::make_tuple(std::move(tokens), std::move(cu_seqlens));
}

/// A read-only array over mapped memory, which keeps the file open.
py::array view(const py::object& file, const py::dtype& dtype, std::uint64_t size,
               const std::byte* data) {
  py::array array(dtype, {static_cast<py::ssize_t>(size)}, {dtype.itemsize()}, data, file);
  py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return array;
}

py::array lengths(const py::object& self) {
  const auto& file = self.cast<const IndexedFile&>();
  const std::byte* data = nullptr;
  {
    const ReleaseGil release;
    data = file.lengths();
  }
  return view(self, py::dtype::of<std::int32_t>(), file.num_sequences(), data);
}

py::array sequence(const py::object& self, std::int64_t id) {
  const auto& file = self.cast<const IndexedFile&>();
  const Slice slice = file.locate(id);
  return view(self, py::dtype(std::string(file.token_type().name)),
              static_cast<std::uint64_t>(slice.length), slice.tokens);
}

Array<std::uint64_t> block_checksums(const std::filesystem::path& path) {
  std::vector<std::uint64_t> checksums;
  {
    const ReleaseGil release;
    const MappedFile file(path);
    checksums.reserve(num_blocks(file.size()));
    for (std::uint64_t begin = 0; begin < file.size(); begin += kBlockBytes) {
      const std::uint64_t num_bytes = std::min<std::uint64_t>(kBlockBytes, file.size() - begin);
      checksums.push_back(block_checksum(file.data() + begin, num_bytes));
    }
    file.require_unchanged();
  }
  return Array<std::uint64_t>(static_cast<py::ssize_t>(checksums.size()), checksums.data());
}

void append(IndexedWriter& writer, const Array<std::int32_t>& tokens,
            const Array<std::int32_t>& lengths) {
  require_vector(tokens, "tokens");
  require_vector(lengths, "lengths");
  const auto num_tokens = static_cast<std::size_t>(tokens.size());
  const auto num_sequences = static_cast<std::size_t>(lengths.size());
  const std::int32_t* tokens_data = tokens.data();
  const std::int32_t* lengths_data = lengths.data();
  const ReleaseGil release;
  writer.append(tokens_data, num_tokens, lengths_data, num_sequences);
}

void leave_context(IndexedWriter& writer, const py::object& type, const py::object& /*value*/,
                   const py::object& /*traceback*/) {
  const bool failed = !type.is_none();
  const ReleaseGil release;
  if (failed) {
    writer.abort();
  } else {
    writer.close();
  }
}

}  // namespace

void bind_corpus(py::module_& module) {
  using release_gil = py::call_guard<ReleaseGil>;

  py::class_<IndexedFile, std::shared_ptr<IndexedFile>>(module, "IndexedFile")
      .def(py::init([](const std::filesystem::path& prefix, std::optional<std::int64_t> vocab_size,
                       const std::optional<std::string>& layout,
                       const std::optional<std::filesystem::path>& checksums) {
             const ReleaseGil release;
             return std::make_shared<IndexedFile>(prefix, vocab_size, layout_named(layout),
                                                  checksums);
           }),
           py::arg("prefix"), py::kw_only(), py::arg("vocab_size") = py::none(),
           py::arg("layout") = py::none(), py::arg("checksums") = py::none())
      .def("__len__", &IndexedFile::num_sequences)
      .def_property_readonly("num_tokens", &IndexedFile::num_tokens)
      .def_property_readonly("dtype",
                             [](const IndexedFile& file) { return file.token_type().name; })
      .def_property_readonly(
          "prefix", [](const IndexedFile& file) { return decode_path(file.prefix().native()); })
      .def_property_readonly("layout",
                             [](const IndexedFile& file) {
                               return file.layout() == Layout::kMegatron ? "megatron" : "fairseq";
                             })
      .def("lengths", &lengths)
      .def("sequence", &sequence, py::arg("id"))
      .def("verify", &IndexedFile::verify, py::kw_only(), py::arg("eos_id") = py::none(),
           release_gil())
      .def("gather", &gather, py::arg("ids").noconvert());

  module.attr("BLOCK_BYTES") = kBlockBytes;
  module.def("block_checksums", &block_checksums, py::arg("path"));

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
