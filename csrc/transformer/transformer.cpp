#include "transformer/transformer.h"

#include <limits>
#include <stdexcept>
#include <string>

#include "cross_entropy/cross_entropy.h"

namespace pycat {
namespace {

const PanelMath& math_of(CpuIsa isa) {
#ifdef PYCAT_X86
  if (isa == CpuIsa::kAvx2 || isa == CpuIsa::kAvxVnni) return kAvx2Math;
  if (isa != CpuIsa::kPortable) return kAvx512Math;
#elif defined(PYCAT_ARM64)
  if (isa != CpuIsa::kPortable) return kNeonMath;
#else
  static_cast<void>(isa);
#endif
  return kPortableMath;
}

/// How layers are multiplied, and how the output layer is.
struct Formats {
  const PanelFormat* layers;
  const PanelFormat* head;
  const LinearKernel* head_kernel;
};

Formats formats_of(CpuIsa isa, Precision precision) {
  const LinearKernel* float32 = &linear_kernel(isa, FloatType::kFloat32);
#ifdef PYCAT_X86
  const bool has_bfloat16 = isa == CpuIsa::kAvx512Bf16;
  const bool is_avx512 = isa == CpuIsa::kAvx512 || has_bfloat16;
  const bool is_avx2 = isa == CpuIsa::kAvx2 || isa == CpuIsa::kAvxVnni;
  if (precision == Precision::kBFloat16 && has_bfloat16) {
    return {&kAvx512BFloat16, &kAvx512BFloat16, &kAvx512Bf16Kernel};
  }
  if (precision == Precision::kInt8 && is_avx512) {
    if (has_avx512_vnni()) {
      return {&kAvx512VnniInt8, &kAvx512VnniInt8, &kAvx512VnniInt8Kernel};
    }
    return {&kAvx512Int8, &kAvx512Int8, &kAvx512Int8Kernel};
  }
  if (precision == Precision::kInt8 && isa == CpuIsa::kAvxVnni) {
    return {&kAvxVnniInt8, &kAvxVnniInt8, &kAvxVnniInt8Kernel};
  }
  if (precision == Precision::kInt8 && is_avx2) {
    return {&kAvx2Int8, &kAvx2Int8, &kAvx2Int8Kernel};
  }
  if (precision == Precision::kFloat32 && is_avx512) {
    return {&kAvx512Float32, &kAvx512Float32, float32};
  }
  if (precision == Precision::kFloat32 && is_avx2) {
    return {&kAvx2Float32, &kAvx2Float32, float32};
  }
#endif
#ifdef PYCAT_ARM64
  if (precision == Precision::kBFloat16 && isa == CpuIsa::kNeonBf16) {
    return {&kNeonBFloat16, &kNeonBFloat16, &kNeonBf16Kernel};
  }
  if (precision == Precision::kInt8 && isa == CpuIsa::kNeonBf16) {
    return {&kNeonI8mmInt8, &kNeonI8mmInt8, &kNeonI8mmInt8Kernel};
  }
  if (precision == Precision::kInt8 && isa == CpuIsa::kNeonDot) {
    return {&kNeonDotInt8, &kNeonDotInt8, &kNeonDotInt8Kernel};
  }
  if (precision == Precision::kFloat32 && isa != CpuIsa::kPortable) {
    return {&kNeonFloat32, &kNeonFloat32, float32};
  }
#endif
  if (precision == Precision::kFloat32) return {&kPortableFloat32, &kPortableFloat32, float32};
  throw std::invalid_argument(std::string("this processor, or the instruction set ") +
                              isa_name(isa) + " that it is told to use, has no " +
                              (precision == Precision::kInt8 ? "int8" : "bfloat16") +
                              " products; use float32");
}

void check_sizes(const TransformerWeights& weights) {
  const std::int64_t heads = weights.num_heads;
  if (heads <= 0 || weights.head_width <= 0 || weights.head_width % 8 != 0) {
    throw std::invalid_argument("a model of width " + std::to_string(weights.d_model) + " with " +
                                std::to_string(heads) +
                                " heads; expected heads whose width is a multiple of 8");
  }
  if (weights.num_kv_heads <= 0 || heads % weights.num_kv_heads != 0) {
    throw std::invalid_argument(std::to_string(weights.num_kv_heads) +
                                " heads of keys and values for " + std::to_string(heads) +
                                " heads of queries; expected a divisor");
  }
  // Features are packed in twos and fours.
  if (weights.d_model % 4 != 0) {
    throw std::invalid_argument("a model of width " + std::to_string(weights.d_model) +
                                "; expected a multiple of 4");
  }
}

}  // namespace

Transformer::Transformer(const TransformerWeights& weights, Precision precision, CpuIsa isa,
                         std::int64_t num_threads)
    : weights_(weights), math_(&math_of(isa)) {
  const Formats formats = formats_of(isa, precision);
  format_ = formats.layers;
  head_format_ = formats.head;
  head_kernel_ = formats.head_kernel;
  exact_targets_ = precision == Precision::kInt8;
  check_sizes(weights);
  LinearPacker packer;
  for (const LayerWeights& layer : weights.encoder) {
    encoder_.push_back(add_layer(layer, packer));
  }
  for (const LayerWeights& layer : weights.decoder) {
    decoder_.push_back(add_layer(layer, packer));
  }
  head_ = packer.add(weights.head, *head_format_, -std::numeric_limits<float>::infinity());
  packer.pack(num_threads);
}

Transformer::Layer Transformer::add_layer(const LayerWeights& weights, LinearPacker& packer) const {
  const auto packed = [&](const LinearWeights& linear) {
    return packer.add(linear, *format_, 0.0F);
  };
  Layer layer;
  layer.self = {packed(weights.self.query), {}, packed(weights.self.output)};
  if (weights.cross.query.weight != nullptr) {
    layer.cross = {packed(weights.cross.query), packed(weights.cross.key_value),
                   packed(weights.cross.output)};
  }
  layer.ff1 = packed(weights.feed_forward.ff1);
  layer.ff2 = packed(weights.feed_forward.ff2);
  return layer;
}

}  // namespace pycat
