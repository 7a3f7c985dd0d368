#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/bind.h"
#include "cross_entropy/token_stats.h"
#include "transformer/transformer.h"

namespace py = pybind11;

namespace pycat {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Ids = py::array_t<std::int64_t, py::array::c_style>;
using Offsets = py::array_t<std::int32_t, py::array::c_style>;

/// Reads named arrays, and keeps those that the model does not copy: embeddings, norms and the
/// output layer of int8.
class WeightReader {
 public:
  /// `rms_norm`: norms have no bias.
  WeightReader(const py::dict& weights, bool rms_norm) : weights_(weights), rms_norm_(rms_norm) {}

  bool has(const std::string& name) const { return weights_.contains(name.c_str()); }

  const float* read(const std::string& name, std::int64_t rows, std::int64_t columns,
                    bool is_packed = false) {
    if (!has(name)) throw std::invalid_argument("weights lack " + name);
    const py::object object = weights_[name.c_str()];
    if (!py::isinstance<Floats>(object)) {
      throw std::invalid_argument(name + " is not a contiguous float32 array");
    }
    Floats array = py::cast<Floats>(object);
    const bool fits = columns == 0 ? array.ndim() == 1 && array.shape(0) == rows
                                   : array.ndim() == 2 && (rows == 0 || array.shape(0) == rows) &&
                                         array.shape(1) == columns;
    if (!fits) {
      throw std::invalid_argument(name + " has another shape than the model's sizes ask for");
    }
    last_rows_ = array.shape(0);
    if (!is_packed) kept_.push_back(array);
    return array.data();
  }

  NormWeights norm(const std::string& name, std::int64_t width) {
    const float* weight = read(name + ".weight", width, 0);
    return {weight, rms_norm_ ? nullptr : read(name + ".bias", width, 0)};
  }

  NormWeights optional_norm(const std::string& name, std::int64_t width) {
    return has(name + ".weight") ? norm(name, width) : NormWeights{};
  }

  LinearWeights linear(const std::string& name, std::int64_t rows, std::int64_t width,
                       bool is_packed = true) {
    LinearWeights linear = {read(name + ".weight", rows, width, is_packed), nullptr, 0, width};
    linear.rows = last_rows_;
    if (has(name + ".bias")) linear.bias = read(name + ".bias", linear.rows, 0, is_packed);
    return linear;
  }

  const float* optional_table(const std::string& name, std::int64_t rows, std::int64_t columns) {
    return has(name) ? read(name, rows, columns) : nullptr;
  }

  /// Without a table of positions there are `num_positions`.
  EmbeddingWeights embedding(const std::string& name, std::int64_t width,
                             std::int64_t num_positions) {
    EmbeddingWeights embedding = {};
    embedding.tokens = read(name + ".tokens", 0, width);
    embedding.vocab_size = last_rows_;
    embedding.num_positions = num_positions;
    if (num_positions == 0) {
      embedding.positions = read(name + ".positions", 0, width);
      embedding.num_positions = last_rows_;
    }
    embedding.norm = optional_norm(name + ".norm", width);
    return embedding;
  }

  std::vector<Floats> take() { return std::move(kept_); }

 private:
  const py::dict& weights_;
  bool rms_norm_;
  std::vector<Floats> kept_;
  std::int64_t last_rows_ = 0;
};

AttentionWeights read_self_attention(WeightReader& reader, const std::string& name,
                                     const TransformerWeights& sizes) {
  const std::int64_t width = sizes.d_model;
  const std::int64_t query_width = sizes.query_width();
  const std::int64_t num_positions = sizes.target.num_positions;
  AttentionWeights attention = {};
  attention.query =
      reader.linear(name + ".query_key_value", query_width + 2 * sizes.key_width(), width);
  attention.output = reader.linear(name + ".output", width, query_width);
  attention.norm = reader.norm(name + ".norm", width);
  attention.output_norm = reader.optional_norm(name + ".output_norm", width);
  attention.query_norm = reader.optional_norm(name + ".query_norm", sizes.head_width);
  attention.key_norm = reader.optional_norm(name + ".key_norm", sizes.head_width);
  attention.rotary = reader.optional_table(name + ".rotary", num_positions, sizes.head_width);
  attention.relative =
      reader.optional_table(name + ".relative", sizes.num_heads, 2 * num_positions - 1);
  return attention;
}

/// `has_cross`: the layer attends to an encoder. `sizes` has all but its layers.
LayerWeights read_layer(WeightReader& reader, const std::string& name,
                        const TransformerWeights& sizes, bool has_cross) {
  const std::int64_t width = sizes.d_model;
  LayerWeights layer = {};
  layer.self = read_self_attention(reader, name + ".self", sizes);
  if (has_cross) {
    layer.cross.query = reader.linear(name + ".cross.query", sizes.query_width(), width);
    layer.cross.key_value = reader.linear(name + ".cross.key_value", 2 * sizes.key_width(), width);
    layer.cross.output = reader.linear(name + ".cross.output", width, sizes.query_width());
    layer.cross.norm = reader.norm(name + ".cross.norm", width);
  }
  layer.feed_forward.ff1 = reader.linear(name + ".ff1", 0, width);
  const std::int64_t rows = layer.feed_forward.ff1.rows;
  const std::int64_t middle = sizes.is_gated() ? rows / 2 : rows;
  if (rows % (sizes.is_gated() ? 8 : 4) != 0) {
    throw std::invalid_argument(name + ".ff2 reads " + std::to_string(middle) +
                                " features; expected a multiple of 4");
  }
  layer.feed_forward.ff2 = reader.linear(name + ".ff2", width, middle);
  layer.feed_forward.norm = reader.norm(name + ".feed_forward.norm", width);
  layer.feed_forward.output_norm = reader.optional_norm(name + ".feed_forward.output_norm", width);
  return layer;
}

Epilogue activation_of(const std::string& name) {
  if (name == "relu") return Epilogue::kRelu;
  if (name == "silu") return Epilogue::kSilu;
  if (name == "gelu") return Epilogue::kGelu;
  if (name == "gelu_tanh") return Epilogue::kGeluTanh;
  if (name == "gated_silu") return Epilogue::kGatedSilu;
  if (name == "gated_gelu_tanh") return Epilogue::kGatedGeluTanh;
  throw std::invalid_argument("activation is \"" + name +
                              "\"; expected relu, silu, gelu, gelu_tanh, gated_silu or "
                              "gated_gelu_tanh");
}

Precision precision_of(const std::string& name) {
  if (name == "float32") return Precision::kFloat32;
  if (name == "bfloat16") return Precision::kBFloat16;
  if (name == "int8") return Precision::kInt8;
  throw std::invalid_argument("dtype is \"" + name + "\"; expected float32, bfloat16 or int8");
}

/// A Transformer and the arrays that it reads.
struct HeldTransformer {
  std::vector<Floats> arrays;
  std::unique_ptr<Transformer> model;
};

HeldTransformer make(const py::dict& arrays, const std::string& dtype, std::int64_t num_heads,
                     bool norm_first, const std::string& activation, float epsilon,
                     float embedding_scale, float head_scale, std::int64_t num_threads,
                     std::int64_t uncounted_token, std::int64_t num_kv_heads,
                     std::int64_t head_width, float attention_scale, float attention_softcap,
                     float head_softcap, bool rms_norm, std::int64_t num_positions,
                     const std::vector<std::int64_t>& windows) {
  if (num_threads < 1) throw std::invalid_argument("num_threads is below 1");
  if (num_heads < 1) throw std::invalid_argument("num_heads is below 1");
  WeightReader reader(arrays, rms_norm);
  TransformerWeights weights = {};
  if (!reader.has("head.weight")) throw std::invalid_argument("weights lack head.weight");
  const py::array head = arrays["head.weight"];
  if (head.ndim() != 2) throw std::invalid_argument("head.weight is not a matrix");
  weights.d_model = head.shape(1);
  weights.num_heads = num_heads;
  weights.num_kv_heads = num_kv_heads == 0 ? num_heads : num_kv_heads;
  weights.head_width = head_width == 0 ? weights.d_model / num_heads : head_width;
  if (head_width == 0 && weights.d_model % num_heads != 0) weights.head_width = 0;
  weights.attention_scale = attention_scale;
  if (attention_scale == 0.0F) {
    weights.attention_scale = 1.0F / std::sqrt(static_cast<float>(weights.head_width));
  }
  weights.attention_softcap = attention_softcap;
  weights.head_softcap = head_softcap;
  weights.norm_first = norm_first;
  weights.activation = activation_of(activation);
  weights.epsilon = epsilon;
  weights.embedding_scale = embedding_scale;
  weights.head_scale = head_scale;
  if (reader.has("source.tokens") || reader.has("encoder.0.ff1.weight")) {
    weights.source = reader.embedding("source", weights.d_model, num_positions);
  }
  weights.target = reader.embedding("target", weights.d_model, num_positions);
  weights.source.uncounted_token = weights.target.uncounted_token = uncounted_token;
  for (const bool is_decoder : {false, true}) {
    const std::string side = is_decoder ? "decoder." : "encoder.";
    std::vector<LayerWeights>& layers = is_decoder ? weights.decoder : weights.encoder;
    while (reader.has(side + std::to_string(layers.size()) + ".ff1.weight")) {
      const std::string name = side + std::to_string(layers.size());
      layers.push_back(read_layer(reader, name, weights, is_decoder && !weights.is_causal()));
    }
  }
  if (!windows.empty() && windows.size() != weights.decoder.size()) {
    throw std::invalid_argument(std::to_string(windows.size()) + " windows for " +
                                std::to_string(weights.decoder.size()) + " layers");
  }
  for (std::size_t i = 0; i < windows.size(); ++i) weights.decoder[i].self.window = windows[i];
  weights.encoder_norm = reader.optional_norm("encoder.norm", weights.d_model);
  weights.decoder_norm = reader.optional_norm("decoder.norm", weights.d_model);
  const Precision precision = precision_of(dtype);
  weights.head = reader.linear("head", 0, weights.d_model, precision != Precision::kInt8);
  HeldTransformer held;
  held.arrays = reader.take();
  const CpuIsa isa = active_isa();
  const ReleaseGil release;
  held.model = std::make_unique<Transformer>(weights, precision, isa, num_threads);
  return held;
}

py::tuple score(const HeldTransformer& held, const Ids& src_tokens, const Offsets& src_cu_seqlens,
                const Ids& tgt_inputs, const Ids& targets, const Offsets& tgt_cu_seqlens,
                std::int64_t ignore_index, bool all_stats, bool per_token) {
  require_vector(src_tokens, "src_tokens");
  require_vector(src_cu_seqlens, "src_cu_seqlens");
  require_vector(tgt_inputs, "tgt_inputs");
  require_vector(targets, "targets");
  require_vector(tgt_cu_seqlens, "tgt_cu_seqlens");
  const std::int64_t num_sequences = tgt_cu_seqlens.size() - 1;
  if (num_sequences < 0 || src_cu_seqlens.size() != tgt_cu_seqlens.size() ||
      tgt_inputs.size() != targets.size()) {
    throw std::invalid_argument("source, inputs and targets differ in how many they are");
  }
  const std::int64_t num_stats = all_stats ? kNumTokenStats : 1;
  const TokenTargets token_targets = {targets.data(),
                                      targets.size(),
                                      tgt_cu_seqlens.data(),
                                      num_sequences,
                                      ignore_index,
                                      held.model->vocab_size(),
                                      1,
                                      num_stats};
  py::array_t<double> sums(std::vector<py::ssize_t>{num_stats, num_sequences});
  py::array_t<std::int64_t> num_tokens(num_sequences);
  py::array_t<double> ppl_mean(num_sequences);
  py::array_t<double> ppl_var(num_sequences);
  py::array_t<float> nll_per_token(per_token ? targets.size() : 0);
  SequenceResults results = {sums.mutable_data(),
                             num_tokens.mutable_data(),
                             ppl_mean.mutable_data(),
                             ppl_var.mutable_data(),
                             per_token ? nll_per_token.mutable_data() : nullptr,
                             0};
  const PackedTokens source = {src_tokens.data(), src_tokens.size(), src_cu_seqlens.data(),
                               num_sequences};
  const std::int64_t* inputs = tgt_inputs.data();
  {
    const ReleaseGil release;
    held.model->score(source, inputs, token_targets, results);
  }
  return py::make_tuple(sums, nll_per_token, results.first_bad);
}

}  // namespace

void bind_transformer(py::module_& module) {
  py::class_<HeldTransformer>(module, "Transformer")
      .def(py::init(&make), py::arg("weights"), py::kw_only(), py::arg("dtype"),
           py::arg("num_heads"), py::arg("norm_first"), py::arg("activation"), py::arg("epsilon"),
           py::arg("embedding_scale"), py::arg("head_scale"), py::arg("num_threads"),
           py::arg("uncounted_token") = -1, py::arg("num_kv_heads") = 0, py::arg("head_width") = 0,
           py::arg("attention_scale") = 0.0F, py::arg("attention_softcap") = 0.0F,
           py::arg("head_softcap") = 0.0F, py::arg("rms_norm") = false,
           py::arg("num_positions") = 0, py::arg("windows") = std::vector<std::int64_t>())
      .def("score", &score, py::arg("src_tokens").noconvert(),
           py::arg("src_cu_seqlens").noconvert(), py::arg("tgt_inputs").noconvert(),
           py::arg("targets").noconvert(), py::arg("tgt_cu_seqlens").noconvert(), py::kw_only(),
           py::arg("ignore_index"), py::arg("all_stats"), py::arg("per_token"));
}

}  // namespace pycat
