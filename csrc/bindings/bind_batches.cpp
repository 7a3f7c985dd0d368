#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <limits>
#include <memory>
#include <stdexcept>
#include <string>

#include "bindings/bind.h"
#include "bindings/dlpack.h"
#include "corpus/batch_plan.h"
#include "corpus/batch_stream.h"

namespace py = pybind11;

namespace pycat {
namespace {

using Ids = py::array_t<std::int64_t, py::array::c_style>;

/// A tensor that keeps its block until the consumer deletes it, on any thread.
struct ManagedTensor {
  DLManagedTensor managed{};
  std::array<std::int64_t, 2> shape;
  std::shared_ptr<const Block> block;
};

py::capsule to_capsule(const std::shared_ptr<const Block>& block, const BatchTensor& tensor) {
  auto owned = std::make_unique<ManagedTensor>();
  owned->shape = tensor.shape;
  owned->block = block;
  DLTensor& described = owned->managed.dl_tensor;
  described.data = tensor.data;
  described.device = {1, 0};
  described.ndim = tensor.num_dimensions;
  described.dtype = {0, static_cast<std::uint8_t>(tensor.type == OutputType::kInt32 ? 32 : 64), 1};
  described.shape = owned->shape.data();
  owned->managed.manager_ctx = owned.get();
  owned->managed.deleter = [](DLManagedTensor* self) {
    delete static_cast<ManagedTensor*>(self->manager_ctx);
  };
  // A consumer renames the capsule and deletes the tensor itself.
  return py::capsule(&owned.release()->managed, "dltensor", [](PyObject* capsule) {
    if (PyCapsule_IsValid(capsule, "dltensor") == 0) return;
    auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
    managed->deleter(managed);
  });
}

py::tuple to_tuple(const Batch& batch) {
  return py::make_tuple(
      to_capsule(batch.block, batch.src_tokens), to_capsule(batch.block, batch.src_cu_seqlens),
      to_capsule(batch.block, batch.tgt_tokens), to_capsule(batch.block, batch.tgt_cu_seqlens),
      to_capsule(batch.block, batch.pair_ids));
}

OutputType output_type(const std::string& dtype) {
  if (dtype == "int32") return OutputType::kInt32;
  if (dtype == "int64") return OutputType::kInt64;
  throw std::invalid_argument("dtype is '" + dtype + "', expected 'int32' or 'int64'");
}

BatchFormat batch_format(bool padded, std::int64_t pad_id, const std::string& dtype) {
  if (pad_id < 0 || pad_id > std::numeric_limits<std::int32_t>::max()) {
    throw std::invalid_argument("pad_id is " + std::to_string(pad_id) +
                                ", expected 0 or more and below 2147483648");
  }
  return {padded, pad_id, output_type(dtype)};
}

std::vector<std::int64_t> copy_ids(const Ids& ids) {
  require_vector(ids, "ids");
  return {ids.data(), ids.data() + ids.size()};
}

/// Borrows the memory of a writable array, such as that of a pinned tensor.
Block borrow(const py::array& array) {
  py::array buffer = array;
  constexpr std::uintptr_t kAlignment = alignof(std::int64_t);
  if ((buffer.flags() & py::array::c_style) == 0 || !buffer.writeable() ||
      reinterpret_cast<std::uintptr_t>(buffer.data()) % kAlignment != 0) {
    throw std::invalid_argument(
        "a buffer is not writable, C-contiguous and aligned to 8 bytes; pass new arrays");
  }
  return {static_cast<std::byte*>(buffer.mutable_data()), static_cast<std::size_t>(buffer.nbytes()),
          std::shared_ptr<void>(new py::object(buffer), [](void* held) {
            if (Py_IsInitialized() == 0) return;  // the tensor outlived the interpreter
            const py::gil_scoped_acquire acquire;
            delete static_cast<py::object*>(held);
          })};
}

void delete_stream(BatchStream* stream) {
  if (stream->is_forked()) return;
  // The stream's threads may wait for the GIL to release a borrowed buffer.
  const ReleaseGil release;
  delete stream;
}

std::shared_ptr<BatchStream> make_stream(
    std::shared_ptr<const IndexedFile> src, std::shared_ptr<const IndexedFile> tgt,
    std::shared_ptr<const BatchPlan> plan, std::optional<std::uint64_t> seed, std::uint64_t epoch,
    std::int64_t rank, std::uint64_t first_step, std::int64_t pad_id, const std::string& dtype,
    std::size_t prefetch, std::size_t num_threads, const std::vector<py::array>& buffers) {
  std::vector<Block> blocks;
  for (const py::array& buffer : buffers) blocks.push_back(borrow(buffer));
  const BatchFormat format = batch_format(plan->options().padded, pad_id, dtype);
  const BatchStream::Options options{{seed, epoch}, rank, first_step, prefetch, num_threads};
  return {new BatchStream(std::move(src), std::move(tgt), std::move(plan), format,
                          std::move(blocks), options),
          &delete_stream};
}

void throw_if_interrupted() {
  const py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

py::object next_batch(BatchStream& stream) {
  std::optional<Batch> batch;
  {
    const ReleaseGil release;
    batch = stream.next(&throw_if_interrupted);
  }
  if (!batch) return py::none();
  return to_tuple(*batch);
}

py::tuple read_batch(const std::shared_ptr<const IndexedFile>& src,
                     const std::shared_ptr<const IndexedFile>& tgt, const Ids& ids, bool padded,
                     std::int64_t pad_id, const std::string& dtype) {
  const std::vector<std::int64_t> copied_ids = copy_ids(ids);
  const BatchFormat format = batch_format(padded, pad_id, dtype);
  Batch batch;
  {
    const ReleaseGil release;
    const auto pool = std::make_shared<BlockPool>(std::vector<Block>{}, 0);
    batch = BatchReader(src, tgt, format, pool).read(copied_ids);
  }
  return to_tuple(batch);
}

Ids batch_pairs(const BatchPlan& plan, std::uint64_t batch, std::optional<std::uint64_t> seed,
                std::uint64_t epoch) {
  if (batch >= plan.num_batches()) {
    throw std::out_of_range("batch is " + std::to_string(batch) + ", expected below " +
                            std::to_string(plan.num_batches()) + ", the number of batches");
  }
  std::vector<std::int64_t> ids;
  plan.pairs({seed, epoch}, batch, ids);
  return Ids(static_cast<py::ssize_t>(ids.size()), ids.data());
}

}  // namespace

void bind_batches(py::module_& module) {
  using release_gil = py::call_guard<ReleaseGil>;

  py::class_<PairOrder, std::shared_ptr<PairOrder>>(module, "PairOrder")
      .def(py::init([](const IndexedFile& src, const IndexedFile& tgt,
                       const std::optional<Ids>& ids, const std::filesystem::path& scratch) {
             if (ids) require_vector(*ids, "ids");
             const std::int64_t* data = ids ? ids->data() : nullptr;
             const auto size = ids ? static_cast<std::size_t>(ids->size()) : 0;
             const ReleaseGil release;
             return std::make_shared<PairOrder>(src, tgt, data, size, scratch);
           }),
           py::arg("src"), py::arg("tgt"), py::arg("ids").noconvert().none(true), py::kw_only(),
           py::arg("scratch_folder"))
      .def("__len__", &PairOrder::size);

  py::class_<BatchPlan, std::shared_ptr<BatchPlan>>(module, "BatchPlan")
      .def(py::init([](std::shared_ptr<PairOrder> order, std::int64_t batch_tokens, bool padded,
                       std::int64_t world_size) {
             const ReleaseGil release;
             return std::make_shared<BatchPlan>(std::move(order),
                                                PlanOptions{batch_tokens, padded, world_size});
           }),
           py::arg("order").none(false), py::kw_only(), py::arg("batch_tokens"), py::arg("padded"),
           py::arg("world_size") = 1)
      .def("__len__", [](const BatchPlan& plan) { return plan.num_batches(); })
      .def_property_readonly("num_steps", &BatchPlan::num_steps)
      .def_property_readonly("fingerprint", &BatchPlan::fingerprint)
      .def_property_readonly("max_bytes", &BatchPlan::max_bytes)
      .def(
          "num_batches",
          [](const BatchPlan& plan, std::int64_t rank) { return plan.num_batches(rank); },
          py::arg("rank"))
      .def("pairs", &batch_pairs, py::arg("batch"), py::kw_only(), py::arg("seed") = py::none(),
           py::arg("epoch") = 0);

  py::class_<BatchStream, std::shared_ptr<BatchStream>>(module, "BatchStream")
      .def(py::init(&make_stream), py::arg("src").none(false), py::arg("tgt").none(false),
           py::arg("plan").none(false), py::kw_only(), py::arg("seed") = py::none(),
           py::arg("epoch") = 0, py::arg("rank") = 0, py::arg("first_step") = 0,
           py::arg("pad_id") = 0, py::arg("dtype") = "int64", py::arg("prefetch") = 4,
           py::arg("num_threads") = 1, py::arg("buffers") = py::list())
      .def("next", &next_batch)
      .def_property_readonly("step", &BatchStream::step)
      .def("close", &BatchStream::close, release_gil());

  module.def("read_batch", &read_batch, py::arg("src").none(false), py::arg("tgt").none(false),
             py::arg("ids").noconvert(), py::kw_only(), py::arg("padded") = false,
             py::arg("pad_id") = 0, py::arg("dtype") = "int64");
}

}  // namespace pycat
