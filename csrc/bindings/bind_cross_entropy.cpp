#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/int_math.h"
#include "bindings/bind.h"
#include "cross_entropy/cross_entropy.h"
#include "cross_entropy/float_type.h"
#include "cross_entropy/token_stats.h"

namespace py = pybind11;

namespace pycat {
namespace {

using Tiles = py::array_t<std::uint32_t, py::array::c_style>;
using Ids = py::array_t<std::int64_t, py::array::c_style>;
using Sizes = std::vector<py::ssize_t>;
using Offsets = py::array_t<std::int32_t, py::array::c_style>;

/// The type of an array's elements. NumPy has no bfloat16: its bits come as uint16.
FloatType float_type(const py::array& array, const char* name) {
  const char kind = array.dtype().kind();
  const auto size = array.dtype().itemsize();
  if (kind == 'f' && size == 4) return FloatType::kFloat32;
  if (kind == 'f' && size == 2) return FloatType::kFloat16;
  if (kind == 'u' && size == 2) return FloatType::kBFloat16;
  throw std::invalid_argument(std::string(name) + " is " +
                              py::str(py::object(array.dtype())).cast<std::string>() +
                              "; expected float32, float16, or uint16 for bfloat16");
}

/// The data of an array, which must be contiguous, aligned and of this shape; -1 stands for any
/// size.
const char* checked(const py::array& array, const char* name, const Sizes& shape) {
  const int required_flags = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if ((array.flags() & required_flags) != required_flags) {
    throw std::invalid_argument(std::string(name) +
                                " is not contiguous and aligned in memory; pass a copy");
  }
  bool matches = array.ndim() == static_cast<py::ssize_t>(shape.size());
  for (std::size_t i = 0; matches && i < shape.size(); ++i) {
    matches = shape[i] < 0 || array.shape(static_cast<py::ssize_t>(i)) == shape[i];
  }
  if (matches) return static_cast<const char*>(array.data());
  std::string sizes;
  std::string expected;
  for (py::ssize_t i = 0; i < array.ndim(); ++i) sizes += std::to_string(array.shape(i)) + ", ";
  for (const py::ssize_t size : shape) {
    expected += (size < 0 ? "any" : std::to_string(size)) + ", ";
  }
  throw std::invalid_argument(std::string(name) + " has sizes " + sizes + "expected " + expected +
                              "in this order");
}

/// The checked targets of a call, and the arrays of its results.
struct Call {
  Call(const Ids& targets, const Offsets& cu_seqlens, std::int64_t num_checkpoints,
       std::int64_t vocab_size, std::int64_t ignore_index, std::int64_t num_stats, bool per_token,
       std::int64_t threads)
      : num_threads(threads) {
    checked(targets, "targets", {-1});
    checked(cu_seqlens, "cu_seqlens", {-1});
    if (cu_seqlens.size() == 0) throw std::invalid_argument("cu_seqlens is empty; expected B + 1");
    if (num_checkpoints < 1 || vocab_size < 1 || num_threads < 1) {
      throw std::invalid_argument(
          "expected at least one checkpoint, one vocabulary entry and one thread");
    }
    view = {targets.data(), targets.size(), cu_seqlens.data(), cu_seqlens.size() - 1,
            ignore_index,   vocab_size,     num_checkpoints,   num_stats};
    sums = py::array_t<double>(Sizes{num_stats, num_checkpoints, view.num_sequences});
    num_tokens = py::array_t<std::int64_t>(view.num_sequences);
    ppl_mean = py::array_t<double>(view.num_sequences);
    ppl_var = py::array_t<double>(view.num_sequences);
    nll_per_token = per_token ? py::array_t<float>(Sizes{num_checkpoints, view.num_tokens})
                              : py::array_t<float>(Sizes{0, 0});
    results = {sums.mutable_data(),
               num_tokens.mutable_data(),
               ppl_mean.mutable_data(),
               ppl_var.mutable_data(),
               per_token ? nll_per_token.mutable_data() : nullptr,
               0};
  }

  py::tuple outputs() const {
    return py::make_tuple(sums, num_tokens, ppl_mean, ppl_var, nll_per_token, results.first_bad);
  }

  std::int64_t num_threads;
  TokenTargets view;
  SequenceResults results;
  py::array_t<double> sums;
  py::array_t<std::int64_t> num_tokens;
  py::array_t<double> ppl_mean;
  py::array_t<double> ppl_var;
  py::array_t<float> nll_per_token;
};

py::tuple from_logits(const py::array& logits, const Ids& targets, const Offsets& cu_seqlens,
                      std::int64_t ignore_index, bool all_stats, bool per_token,
                      std::int64_t num_threads) {
  const FloatType type = float_type(logits, "logits");
  const char* data = checked(logits, "logits", {-1, targets.size(), -1});
  // grad_norm_bound needs hidden states.
  Call call(targets, cu_seqlens, logits.shape(0), logits.shape(2), ignore_index,
            all_stats ? kNumTokenStats - 1 : 1, per_token, num_threads);
  const CpuIsa isa = active_isa();
  {
    const ReleaseGil release;
    cross_entropy(isa, call.view, data, type, call.num_threads, call.results);
  }
  return call.outputs();
}

py::tuple from_hidden(const py::array& hidden, const py::array& weight,
                      const std::optional<py::array>& bias, const Ids& targets,
                      const Offsets& cu_seqlens, std::int64_t ignore_index, bool all_stats,
                      bool per_token, std::int64_t num_threads) {
  const FloatType type = float_type(hidden, "hidden");
  if (float_type(weight, "weight") != type) {
    throw std::invalid_argument("hidden and weight differ in type; expected one for both");
  }
  LinearHeads heads = {};
  heads.hidden = checked(hidden, "hidden", {-1, targets.size(), -1});
  heads.weight = checked(weight, "weight", {hidden.shape(0), -1, hidden.shape(2)});
  heads.type = type;
  heads.width = hidden.shape(2);
  if (bias) {
    heads.bias = checked(*bias, "bias", {hidden.shape(0), weight.shape(1)});
    heads.bias_type = float_type(*bias, "bias");
  }
  Call call(targets, cu_seqlens, hidden.shape(0), weight.shape(1), ignore_index,
            all_stats ? kNumTokenStats : 1, per_token, num_threads);
  const CpuIsa isa = active_isa();
  {
    const ReleaseGil release;
    linear_cross_entropy(isa, call.view, heads, call.num_threads, call.results);
  }
  return call.outputs();
}

py::tuple from_packed(const py::array& hidden, const Tiles& tiles, const std::string& isa_of_tiles,
                      std::int64_t vocab_size, const Ids& targets, const Offsets& cu_seqlens,
                      std::int64_t ignore_index, bool all_stats, bool per_token,
                      std::int64_t num_threads) {
  const CpuIsa isa = active_isa();
  if (isa_of_tiles != isa_name(isa)) {
    throw std::invalid_argument("the weight was packed for " + isa_of_tiles + ", but " +
                                isa_name(isa) + " is in use now; pack it again");
  }
  LinearHeads heads = {};
  heads.type = float_type(hidden, "hidden");
  heads.hidden = checked(hidden, "hidden", {-1, targets.size(), -1});
  heads.width = hidden.shape(2);
  Call call(targets, cu_seqlens, hidden.shape(0), vocab_size, ignore_index,
            all_stats ? kNumTokenStats : 1, per_token, num_threads);
  const LinearKernel& kernel = linear_kernel(isa, heads.type);
  const std::int64_t num_tiles = divide_up(vocab_size, kernel.tile_rows);
  checked(tiles, "tiles", {hidden.shape(0), num_tiles, tile_words(kernel, heads.width)});
  heads.tiles = tiles.data();
  {
    const ReleaseGil release;
    linear_cross_entropy(isa, call.view, heads, call.num_threads, call.results);
  }
  return call.outputs();
}

Tiles pack_weights(const py::array& weight, const std::optional<py::array>& bias) {
  const FloatType type = float_type(weight, "weight");
  const char* data = checked(weight, "weight", {-1, -1, -1});
  const std::int64_t num_checkpoints = weight.shape(0);
  WeightView view = {data, nullptr, type, type, weight.shape(1), weight.shape(2)};
  if (bias) {
    view.bias = checked(*bias, "bias", {num_checkpoints, view.vocab_size});
    view.bias_type = float_type(*bias, "bias");
  }
  const LinearKernel& kernel = linear_kernel(active_isa(), type);
  const std::int64_t num_tiles = divide_up(view.vocab_size, kernel.tile_rows);
  const std::int64_t words = tile_words(kernel, view.width);
  Tiles tiles(Sizes{num_checkpoints, num_tiles, words});
  std::uint32_t* out = tiles.mutable_data();
  const ReleaseGil release;
  for (std::int64_t k = 0; k < num_checkpoints; ++k) {
    pack_weight(view, kernel, 0, num_tiles, out + k * num_tiles * words);
    view.weight += view.vocab_size * view.width * size_of(view.type);
    if (bias) view.bias += view.vocab_size * size_of(view.bias_type);
  }
  return tiles;
}

}  // namespace

void bind_cross_entropy(py::module_& module) {
  module.def("cross_entropy", &from_logits, py::arg("logits").noconvert(),
             py::arg("targets").noconvert(), py::arg("cu_seqlens").noconvert(), py::kw_only(),
             py::arg("ignore_index"), py::arg("all_stats"), py::arg("per_token"),
             py::arg("num_threads"));
  module.def("linear_cross_entropy", &from_hidden, py::arg("hidden").noconvert(),
             py::arg("weight").noconvert(), py::arg("bias").noconvert(),
             py::arg("targets").noconvert(), py::arg("cu_seqlens").noconvert(), py::kw_only(),
             py::arg("ignore_index"), py::arg("all_stats"), py::arg("per_token"),
             py::arg("num_threads"));
  module.def("packed_linear_cross_entropy", &from_packed, py::arg("hidden").noconvert(),
             py::arg("tiles").noconvert(), py::arg("isa"), py::arg("vocab_size"),
             py::arg("targets").noconvert(), py::arg("cu_seqlens").noconvert(), py::kw_only(),
             py::arg("ignore_index"), py::arg("all_stats"), py::arg("per_token"),
             py::arg("num_threads"));
  module.def("pack_weight", &pack_weights, py::arg("weight").noconvert(),
             py::arg("bias").noconvert());
  module.def("cpu_isa", [] { return isa_name(active_isa()); });
  module.def("supported_cpu_isas", [] {
    std::vector<std::string> names;
    for (const CpuIsa isa : supported_isas()) names.emplace_back(isa_name(isa));
    return names;
  });
}

}  // namespace pycat
