#include <pybind11/numpy.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/bind.h"
#include "training/kernel.h"
#include "training/packed_attention.h"
#include "training/smoothed_cross_entropy.h"

namespace py = pybind11;

namespace pycat {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Ids = py::array_t<std::int64_t, py::array::c_style>;
using Ends = py::array_t<std::int32_t, py::array::c_style>;

/// Whether elements are bfloat16, whose bits come as uint16: NumPy has no type for them.
bool is_bfloat16(const py::array& array, const char* name) {
  const char kind = array.dtype().kind();
  const auto size = array.dtype().itemsize();
  if (kind == 'f' && size == 4) return false;
  if (kind == 'u' && size == 2) return true;
  throw std::invalid_argument(std::string(name) +
                              " has elements that are neither float32 nor uint16 for bfloat16");
}

/// Checks (T, heads, width) of tokens at any distance, and returns that distance in elements.
std::int64_t token_stride(const py::array& array, const py::array& like, const char* name) {
  const auto size = array.dtype().itemsize();
  const bool fits = array.ndim() == 3 && array.dtype().equal(like.dtype()) &&
                    array.shape(1) == like.shape(1) && array.shape(2) == like.shape(2) &&
                    array.strides(2) == size && array.strides(1) == size * array.shape(2) &&
                    array.strides(0) % size == 0 && array.strides(0) >= 0;
  if (!fits) {
    throw std::invalid_argument(std::string(name) +
                                " is not (T, heads, width) with whole tokens, of the type and "
                                "the heads of queries");
  }
  return array.strides(0) / size;
}

void check_ends(const Ends& ends, std::int64_t num_tokens, const char* name) {
  const std::int32_t* at = ends.data();
  bool fits =
      ends.ndim() == 1 && ends.size() > 0 && at[0] == 0 && at[ends.size() - 1] == num_tokens;
  for (py::ssize_t b = 1; fits && b < ends.size(); ++b) fits = at[b - 1] <= at[b];
  if (!fits) {
    throw std::invalid_argument(std::string(name) + " does not rise from 0 to the " +
                                std::to_string(num_tokens) + " packed tokens");
  }
}

PackedHeads packed_heads(const py::array& queries, const py::array& keys, const py::array& values,
                         const Ends& query_ends, const Ends& key_ends, bool causal) {
  if (queries.ndim() != 3) throw std::invalid_argument("queries are not (T, heads, width)");
  const PackedHeads heads = {query_ends.data(),
                             key_ends.data(),
                             query_ends.size() - 1,
                             queries.shape(1),
                             queries.shape(2),
                             causal,
                             is_bfloat16(queries, "queries"),
                             queries.data(),
                             token_stride(queries, queries, "queries"),
                             keys.data(),
                             token_stride(keys, queries, "keys"),
                             values.data(),
                             token_stride(values, queries, "values")};
  if (heads.width == 0 || heads.width % kHeadWidthStep != 0) {
    throw std::invalid_argument("heads are " + std::to_string(heads.width) +
                                " wide; expected a multiple of " + std::to_string(kHeadWidthStep));
  }
  check_ends(query_ends, queries.shape(0), "query_ends");
  check_ends(key_ends, keys.shape(0), "key_ends");
  if (query_ends.size() != key_ends.size() || keys.shape(0) != values.shape(0)) {
    throw std::invalid_argument("queries, keys and values differ in their sequences");
  }
  return heads;
}

py::array like(const py::array& array) {
  return py::array(array.dtype(),
                   std::vector<py::ssize_t>{array.shape(0), array.shape(1), array.shape(2)});
}

py::tuple forward(const py::array& queries, const py::array& keys, const py::array& values,
                  const Ends& query_ends, const Ends& key_ends, bool causal,
                  std::int64_t num_threads) {
  const PackedHeads heads = packed_heads(queries, keys, values, query_ends, key_ends, causal);
  py::array out = like(queries);
  Floats log_sums(std::vector<py::ssize_t>{queries.shape(0), queries.shape(1)});
  const CpuIsa isa = active_isa();
  void* out_data = out.mutable_data();
  float* log_sums_data = log_sums.mutable_data();
  {
    const ReleaseGil release;
    attend_packed(isa, heads, out_data, log_sums_data, num_threads);
  }
  return py::make_tuple(out, log_sums);
}

py::tuple backward(const py::array& queries, const py::array& keys, const py::array& values,
                   const Ends& query_ends, const Ends& key_ends, bool causal, const py::array& out,
                   const Floats& log_sums, const py::array& out_grad, std::int64_t num_threads) {
  const PackedHeads heads = packed_heads(queries, keys, values, query_ends, key_ends, causal);
  const std::int64_t packed = heads.num_heads * heads.width;
  const bool fits = token_stride(out, queries, "out") == packed &&
                    token_stride(out_grad, queries, "out_grad") == packed &&
                    out.shape(0) == queries.shape(0) && out_grad.shape(0) == queries.shape(0) &&
                    log_sums.size() == queries.shape(0) * queries.shape(1);
  if (!fits) throw std::invalid_argument("out, log_sums or out_grad do not fit the queries");
  py::array query_grad = like(queries);
  py::array key_grad = like(keys);
  py::array value_grad = like(values);
  const CpuIsa isa = active_isa();
  void* grads[] = {query_grad.mutable_data(), key_grad.mutable_data(), value_grad.mutable_data()};
  {
    const ReleaseGil release;
    attend_packed_backward(isa, heads, out.data(), log_sums.data(), out_grad.data(), grads[0],
                           grads[1], grads[2], num_threads);
  }
  return py::make_tuple(query_grad, key_grad, value_grad);
}

Floats loss_and_gradient(py::array logits, const Ids& targets, const Floats& weights,
                         float smoothing, std::int64_t num_threads) {
  const bool bfloat16 = is_bfloat16(logits, "logits");
  const bool fits = logits.ndim() == 2 && (logits.flags() & py::array::c_style) != 0 &&
                    targets.ndim() == 1 && weights.ndim() == 1 &&
                    targets.shape(0) == logits.shape(0) && weights.shape(0) == logits.shape(0);
  if (!fits) {
    throw std::invalid_argument("logits (T, V), targets (T,) and weights (T,) do not fit");
  }
  const SmoothedLogits tokens = {
      logits.mutable_data(), logits.shape(0), logits.shape(1), targets.data(),
      weights.data(),        smoothing,       bfloat16};
  for (std::int64_t t = 0; t < tokens.num_tokens; ++t) {
    if (tokens.targets[t] < 0 || tokens.targets[t] >= tokens.vocab_size) {
      throw std::invalid_argument("target " + std::to_string(tokens.targets[t]) +
                                  " is outside the vocabulary of " +
                                  std::to_string(tokens.vocab_size));
    }
  }
  Floats losses(logits.shape(0));
  float* losses_data = losses.mutable_data();
  const CpuIsa isa = active_isa();
  {
    const ReleaseGil release;
    smoothed_cross_entropy(isa, tokens, losses_data, num_threads);
  }
  return losses;
}

}  // namespace

void bind_training(py::module_& module) {
  using py::arg;
  module.def("packed_attention", forward, arg("queries"), arg("keys"), arg("values"),
             arg("query_ends"), arg("key_ends"), arg("causal"), arg("num_threads"));
  module.def("packed_attention_backward", backward, arg("queries"), arg("keys"), arg("values"),
             arg("query_ends"), arg("key_ends"), arg("causal"), arg("out"), arg("log_sums"),
             arg("out_grad"), arg("num_threads"));
  module.def("smoothed_cross_entropy", loss_and_gradient, arg("logits"), arg("targets"),
             arg("weights"), arg("smoothing"), arg("num_threads"));
}

}  // namespace pycat
