#include "transformer/transformer.h"

#include <limits>
#include <stdexcept>
#include <string>

#include "cross_entropy/cross_entropy.h"

namespace pycat {
namespace {

const PanelMath& math_of(CpuIsa isa) {
#ifdef PYCAT_X86
  if (isa == CpuIsa::kAvx2) return kAvx2Math;
  if (isa != CpuIsa::kPortable) return kAvx512Math;
#else
  static_cast<void>(isa);
#endif
  return kPortableMath;
}

const PanelFormat& format_of(CpuIsa isa, Precision precision) {
#ifdef PYCAT_X86
  const bool pairs = isa == CpuIsa::kAvx512Bf16;
  if (precision == Precision::kBFloat16 && pairs) return kAvx512BFloat16;
  if (precision == Precision::kInt8 && pairs && __builtin_cpu_supports("avx512vnni")) {
    return kAvx512Int8;
  }
  if (precision == Precision::kFloat32 && isa == CpuIsa::kAvx2) return kAvx2Float32;
  if (precision == Precision::kFloat32 && isa != CpuIsa::kPortable) return kAvx512Float32;
#endif
  if (precision == Precision::kFloat32) return kPortableFloat32;
  throw std::invalid_argument(std::string("this processor, or the instruction set ") +
                              isa_name(isa) + " that it is told to use, has no " +
                              (precision == Precision::kInt8 ? "int8" : "bfloat16") +
                              " products; use float32");
}

}  // namespace

Transformer::Transformer(const TransformerWeights& weights, Precision precision, CpuIsa isa)
    : weights_(weights), math_(&math_of(isa)), format_(&format_of(isa, precision)) {
  const std::int64_t heads = weights.num_heads;
  if (heads <= 0 || weights.d_model % heads != 0 || weights.d_model / heads % 8 != 0) {
    throw std::invalid_argument("a model of width " + std::to_string(weights.d_model) + " with " +
                                std::to_string(heads) +
                                " heads; expected heads whose width is a multiple of 8");
  }
  // In int8 the output layer would lose too much precision: a logit is an exponent.
  const bool pairs = precision != Precision::kFloat32;
  head_format_ = &format_of(isa, pairs ? Precision::kBFloat16 : Precision::kFloat32);
  head_kernel_ = &linear_kernel(isa, pairs ? FloatType::kBFloat16 : FloatType::kFloat32);
  for (const LayerWeights& layer : weights.encoder) encoder_.push_back(pack(layer, false));
  for (const LayerWeights& layer : weights.decoder) decoder_.push_back(pack(layer, true));
  head_ = pack_linear(weights.head, *head_format_, -std::numeric_limits<float>::infinity());
}

Transformer::Layer Transformer::pack(const LayerWeights& weights, bool is_decoder) const {
  const auto packed = [&](const LinearWeights& linear) {
    return pack_linear(linear, *format_, 0.0F);
  };
  Layer layer;
  layer.self = {packed(weights.self.query), {}, packed(weights.self.output)};
  if (is_decoder) {
    layer.cross = {packed(weights.cross.query), packed(weights.cross.key_value),
                   packed(weights.cross.output)};
  }
  layer.ff1 = packed(weights.feed_forward.ff1);
  layer.ff2 = packed(weights.feed_forward.ff2);
  return layer;
}

}  // namespace pycat
