// Products of whole numbers against plain loops, which they must equal bit for bit, and the forward
// pass of every instruction set against the portable one, which the tests in Python hold against
// float64. It needs no Python, so it also runs in an emulator of another processor.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cross_entropy/cross_entropy.h"
#include "transformer/shared_prefix.h"
#include "transformer/transformer.h"

namespace pycat {
#ifdef PYCAT_X86
extern const PanelFormat kAvx512VlInt8;
#endif

namespace {

std::mt19937 random_numbers(1);

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

std::vector<float> normal(std::int64_t count, float scale, float mean = 0.0F) {
  std::normal_distribution<float> distribution(mean, scale);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = distribution(random_numbers);
  return values;
}

/// Features of a row or a token as whole numbers, and the scale that brings these back.
struct Rounded {
  std::vector<std::int64_t> numbers;
  float scale;
};

/// A token's, whose largest magnitude becomes `largest`.
Rounded rounded_token(const std::vector<float>& values, float largest) {
  float max_abs = 1e-30F;
  for (const float value : values) max_abs = std::max(max_abs, std::fabs(value));
  const float inverse = largest / max_abs;
  Rounded result{{}, std::fma(max_abs, 1.0F / largest, 0.0F)};
  for (const float value : values) {
    result.numbers.push_back(static_cast<std::int64_t>(std::nearbyint(value * inverse)));
  }
  return result;
}

/// A row's, which its format chooses: each must be the nearest to its feature.
Rounded rounded_row(const std::vector<float>& values, const PanelFormat& format) {
  const auto width = static_cast<std::int64_t>(values.size());
  std::vector<std::uint32_t> words(values.size() / 4);
  std::uint32_t offset = 0;
  Rounded result{{}, 0.0F};
  format.pack_row(values.data(), width, words.data(), &result.scale, &offset);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::int64_t number = static_cast<std::int8_t>(words[i / 4] >> (8 * (i % 4)));
    const float error = std::fabs(static_cast<float>(number) * result.scale - values[i]);
    if (!(error <= 0.501F * result.scale)) fail("a weight is not rounded to the nearest number");
    result.numbers.push_back(number);
  }
  return result;
}

/// Rows of which each third is all at its largest magnitude: sums are then as large as they get.
std::vector<float> features(std::int64_t width, int row) {
  if (row % 3 == 0)
    return std::vector<float>(static_cast<std::size_t>(width), row % 2 ? -3.0F : 3.0F);
  return normal(width, 1.0F);
}

void check_products(const char* name, const PanelFormat& format, std::int64_t panel_tokens,
                    float largest, std::int64_t width) {
  constexpr std::int64_t kRows = 37;
  std::vector<float> weight;
  for (int row = 0; row < kRows; ++row) {
    const std::vector<float> values = features(width, row);
    weight.insert(weight.end(), values.begin(), values.end());
  }
  const std::vector<float> bias = normal(kRows, 1.0F);
  LinearPacker packer;
  const PackedLinear layer = packer.add({weight.data(), bias.data(), kRows, width}, format, 0.0F);
  packer.pack(2);

  std::vector<std::vector<float>> tokens;
  std::vector<float> rows(static_cast<std::size_t>(width * panel_tokens));
  for (std::int64_t i = 0; i < panel_tokens; ++i) {
    tokens.push_back(features(width, static_cast<int>(i + 3)));
    for (std::int64_t f = 0; f < width; ++f) {
      rows[static_cast<std::size_t>(f * panel_tokens + i)] =
          tokens.back()[static_cast<std::size_t>(f)];
    }
  }
  AlignedArray<std::uint32_t> words(layer.row_words * panel_tokens);
  AlignedArray<float> scales(panel_tokens);
  AlignedArray<float> out(layer.rows * panel_tokens);
  format.to_words(rows.data(), panel_tokens, width, words.data(), scales.data());
  format.multiply[0]({layer.tiles.data(), layer.num_tiles, layer.row_words, 0, words.data(),
                      scales.data(), out.data()});
  for (std::int64_t row = 0; row < kRows; ++row) {
    const float* at = weight.data() + row * width;
    const Rounded a = rounded_row({at, at + width}, format);
    for (std::int64_t i = 0; i < panel_tokens; ++i) {
      const Rounded b = rounded_token(tokens[static_cast<std::size_t>(i)], largest);
      std::int64_t sum = 0;
      for (std::size_t f = 0; f < a.numbers.size(); ++f) sum += a.numbers[f] * b.numbers[f];
      const float expected =
          std::fma(static_cast<float>(sum) * a.scale, b.scale, bias[static_cast<std::size_t>(row)]);
      const float found = out.data()[row * panel_tokens + i];
      if (found != expected) {
        fail(std::string(name) + ", width " + std::to_string(width) + ": row " +
             std::to_string(row) + " times token " + std::to_string(i) + " is " +
             std::to_string(found) + "; expected " + std::to_string(expected));
      }
    }
  }
}

void check_products(const char* name, const PanelFormat& format, std::int64_t panel_tokens,
                    float largest) {
  for (const std::int64_t width : {4, 12, 36, 256, 2048}) {
    check_products(name, format, panel_tokens, largest, width);
  }
  std::printf("%s: products are exact\n", name);
}

/// Random weights of small models, and the memory that they are in.
struct Model {
  std::vector<std::vector<float>> memory;
  TransformerWeights weights{};

  const float* values(std::int64_t count, float scale, float mean = 0.0F) {
    memory.push_back(normal(count, scale, mean));
    return memory.back().data();
  }
  LinearWeights linear(std::int64_t rows, std::int64_t width) {
    const float scale = 1.0F / std::sqrt(static_cast<float>(width));
    return {values(rows * width, scale), values(rows, 0.3F), rows, width};
  }
  NormWeights norm(std::int64_t width) { return {values(width, 0.3F, 1.0F), values(width, 0.3F)}; }
  NormWeights rms_norm(std::int64_t width) { return {values(width, 0.3F, 1.0F), nullptr}; }

  static constexpr std::int64_t kWidth = 40;
  static constexpr std::int64_t kMiddle = 72;
  static constexpr std::int64_t kVocab = 101;

  /// A causal model with all that such a model may have. Its first layer has a window.
  static Model causal() {
    Model model;
    TransformerWeights& weights = model.weights;
    weights.num_heads = 4;
    weights.num_kv_heads = 2;
    weights.head_width = 16;
    weights.attention_scale = 0.25F;
    weights.attention_softcap = 3.0F;
    weights.head_softcap = 5.0F;
    weights.activation = Epilogue::kGatedSilu;
    weights.source = {};
    weights.target.positions = nullptr;
    weights.target.norm = {};
    weights.encoder.clear();
    for (LayerWeights& layer : weights.decoder) {
      AttentionWeights& self = layer.self;
      self.query = model.linear(4 * 16 + 2 * 2 * 16, kWidth);
      self.output = model.linear(kWidth, 4 * 16);
      self.norm = model.rms_norm(kWidth);
      self.output_norm = model.rms_norm(kWidth);
      self.query_norm = model.rms_norm(16);
      self.key_norm = model.rms_norm(16);
      self.rotary = model.values(weights.target.num_positions * 16, 0.7F);
      self.relative = model.values(4 * (2 * weights.target.num_positions - 1), 1.0F);
      self.window = &layer == weights.decoder.data() ? 9 : 0;
      layer.cross = {};
      layer.feed_forward = {model.linear(2 * kMiddle, kWidth), model.linear(kWidth, kMiddle),
                            model.rms_norm(kWidth), model.rms_norm(kWidth)};
    }
    return model;
  }

  Model() {
    memory.reserve(1000);
    weights.d_model = kWidth;
    weights.num_heads = weights.num_kv_heads = 5;
    weights.head_width = 8;
    weights.attention_scale = 0.35F;
    weights.norm_first = true;
    weights.activation = Epilogue::kGelu;
    weights.epsilon = 1e-5F;
    weights.embedding_scale = 2.0F;
    weights.head_scale = 1.0F;
    for (EmbeddingWeights* side : {&weights.source, &weights.target}) {
      *side = {
          values(kVocab * kWidth, 1.0F), kVocab, values(64 * kWidth, 1.0F), 64, 5, norm(kWidth)};
    }
    for (int i = 0; i < 4; ++i) {
      LayerWeights layer = {};
      layer.self.query = linear(3 * kWidth, kWidth);
      layer.self.output = linear(kWidth, kWidth);
      layer.self.norm = norm(kWidth);
      layer.feed_forward.ff1 = linear(kMiddle, kWidth);
      layer.feed_forward.ff2 = linear(kWidth, kMiddle);
      layer.feed_forward.norm = norm(kWidth);
      if (i >= 2) {
        layer.cross.query = linear(kWidth, kWidth);
        layer.cross.key_value = linear(2 * kWidth, kWidth);
        layer.cross.output = linear(kWidth, kWidth);
        layer.cross.norm = norm(kWidth);
      }
      (i < 2 ? weights.encoder : weights.decoder).push_back(layer);
    }
    weights.encoder_norm = norm(kWidth);
    weights.decoder_norm = norm(kWidth);
    weights.head = {values(kVocab * kWidth, 0.7F), values(kVocab, 0.3F), kVocab, kWidth};
  }
};

/// Sums (7, B) over sequences of tokens that end at `ends`.
std::vector<double> sums_of(const Model& model, Precision precision, CpuIsa isa,
                            const std::vector<std::int64_t>& tokens,
                            const std::vector<std::int64_t>& wanted,
                            const std::vector<std::int32_t>& ends) {
  const Transformer transformer(model.weights, precision, isa, 2);
  const auto count = static_cast<std::int64_t>(ends.size()) - 1;
  const TokenTargets targets = {wanted.data(), ends.back(), ends.data(), count, -100, 101, 1, 7};
  std::vector<double> sums(static_cast<std::size_t>(7 * count));
  std::vector<double> means(static_cast<std::size_t>(count));
  std::vector<double> variances(static_cast<std::size_t>(count));
  std::vector<std::int64_t> num_tokens(static_cast<std::size_t>(count));
  SequenceResults results = {sums.data(),      num_tokens.data(), means.data(),
                             variances.data(), nullptr,           0};
  const std::vector<std::int32_t> none(ends.size(), 0);
  PackedTokens source = {tokens.data(), ends.back(), ends.data(), count};
  if (model.weights.is_causal()) source = {nullptr, 0, none.data(), count};
  transformer.score(source, tokens.data(), targets, results);
  return sums;
}

/// Sums over sentences of 1 to 50 tokens.
std::vector<double> sums_of(const Model& model, Precision precision, CpuIsa isa) {
  const std::vector<std::int32_t> ends = {0, 1, 51, 60, 95, 97, 140};
  std::vector<std::int64_t> tokens;
  for (std::int64_t i = 0; i < ends.back(); ++i) tokens.push_back((i * 37 + 11) % 101);
  std::vector<std::int64_t> wanted = tokens;
  for (std::size_t i = 3; i < 40; ++i) wanted[i] = -100;  // as a prompt is
  return sums_of(model, precision, isa, tokens, wanted, ends);
}

void check_forward(const Model& model, Precision precision, const char* name, CpuIsa isa,
                   double tolerance) {
  const std::vector<double> exact = sums_of(model, Precision::kFloat32, CpuIsa::kPortable);
  std::vector<double> found;
  try {
    found = sums_of(model, precision, isa);
  } catch (const std::invalid_argument&) {
    std::printf("%s: no %s\n", isa_name(isa), name);
    return;
  }
  double largest = 0.0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    largest = std::max(largest, std::fabs(found[i] - exact[i]) / (1.0 + std::fabs(exact[i])));
  }
  std::printf("%s %s: largest difference %.1e\n", isa_name(isa), name, largest);
  if (!(largest <= tolerance)) fail("more than expected");
}

/// Tokens in which all sequences agree are split off, by hand.
void check_prefix_split() {
  const std::vector<std::int64_t> tokens = {7, 8, 9, 7, 8, 7, 8, 5, 6};
  const std::vector<std::int32_t> ends = {0, 3, 5, 9};
  const PackedTokens packed = {tokens.data(), 9, ends.data(), 3};
  if (num_shared_tokens(packed) != 2) fail("7 8 is shared");
  SharedPrefix prefix;
  const PackedTokens split = prefix.split(packed, 2);
  const std::vector<std::int64_t> expected_tokens = {7, 8, 9, 5, 6};
  const std::vector<std::int32_t> expected_ends = {0, 2, 3, 3, 5};
  const std::vector<std::int64_t> expected_places = {0, 1, 2, 0, 1, 0, 1, 3, 4};
  if (split.num_tokens != 5 || split.num_sequences != 4 ||
      !std::equal(expected_tokens.begin(), expected_tokens.end(), split.tokens) ||
      !std::equal(expected_ends.begin(), expected_ends.end(), split.cu_seqlens) ||
      !std::equal(expected_places.begin(), expected_places.end(), prefix.places())) {
    fail("a prefix is not split off as expected");
  }
  const auto shared = [&](std::vector<std::int64_t> of, std::vector<std::int32_t> at) {
    return num_shared_tokens(
        {of.data(), at.back(), at.data(), static_cast<std::int64_t>(at.size()) - 1});
  };
  if (shared({1, 2, 3}, {0, 3}) != 0) fail("one sequence alone shares nothing");
  if (shared({1, 2, 3, 2}, {0, 2, 4}) != 0) fail("the first tokens differ");
  if (shared({1, 2, 1, 2}, {0, 2, 4}) != 2) fail("equal sequences share all");
  if (shared({1, 2, 3, 1, 2, 4, 1}, {0, 3, 6, 7}) != 1) fail("the last sequence is the prefix");
}

/// Sequences of a causal model that begin with the same tokens have the sums of each one alone, bit
/// for bit. One of them is the prefix; the prefix is longer than a panel and than a window.
void check_shared_prefix(const Model& model, Precision precision, CpuIsa isa) {
  const std::vector<std::int64_t> prefix = {3,  14, 15, 92, 65, 35, 8,  97, 93, 23, 84, 62,
                                            64, 33, 83, 27, 95, 2,  88, 41, 97, 16, 93, 99,
                                            37, 51, 5,  82, 9,  74, 94, 45, 92, 30, 78};
  std::vector<std::int64_t> tokens;
  std::vector<std::int32_t> ends = {0};
  for (const std::int64_t num_more : {9, 0, 1, 25}) {
    tokens.insert(tokens.end(), prefix.begin(), prefix.end());
    for (std::int64_t i = 0; i < num_more; ++i) tokens.push_back((num_more * 31 + i * 17) % 101);
    ends.push_back(static_cast<std::int32_t>(tokens.size()));
  }
  std::vector<std::int64_t> wanted(tokens.rbegin(), tokens.rend());
  for (std::size_t b = 0; b < 4; ++b) {
    for (std::size_t i = 0; i < 20; ++i) wanted[static_cast<std::size_t>(ends[b]) + i] = -100;
  }
  const std::vector<double> together = sums_of(model, precision, isa, tokens, wanted, ends);
  for (std::size_t b = 0; b < 4; ++b) {
    const auto part = [&](const std::vector<std::int64_t>& all) {
      return std::vector<std::int64_t>(all.begin() + ends[b], all.begin() + ends[b + 1]);
    };
    const std::vector<double> alone =
        sums_of(model, precision, isa, part(tokens), part(wanted), {0, ends[b + 1] - ends[b]});
    for (std::size_t s = 0; s < 7; ++s) {
      if (alone[s] != together[s * 4 + b]) fail("a shared prefix changes a sum");
    }
  }
}

void check() {
  const std::vector<CpuIsa> isas = supported_isas();
  const auto has = [&](CpuIsa isa) {
    return std::find(isas.begin(), isas.end(), isa) != isas.end();
  };
#ifdef PYCAT_X86
  if (has(CpuIsa::kAvx2)) check_products("avx2 int8", kAvx2Int8, 24, 63.0F);
  if (has(CpuIsa::kAvxVnni)) check_products("avx_vnni int8", kAvxVnniInt8, 24, 127.0F);
  if (has(CpuIsa::kAvx512)) {
    check_products("avx512 int8", kAvx512Int8, 32, 63.0F);
    if (__builtin_cpu_supports("avx512vnni")) {
      check_products("avx512 VNNI int8", kAvx512VnniInt8, 32, 127.0F);
      check_products("avx_vnni int8, in AVX-512's encoding", kAvx512VlInt8, 24, 127.0F);
    }
  }
#endif
#ifdef PYCAT_ARM64
  if (has(CpuIsa::kNeonDot)) check_products("neon_dot int8", kNeonDotInt8, 16, 127.0F);
  if (has(CpuIsa::kNeonBf16)) check_products("neon_bf16 int8", kNeonI8mmInt8, 16, 127.0F);
#endif
  const Model encoder_decoder;
  const Model causal = Model::causal();
  for (const Model* model : {&encoder_decoder, &causal}) {
    std::printf("%s\n", model == &causal ? "causal" : "encoder-decoder");
    for (const CpuIsa isa : isas) {
      check_forward(*model, Precision::kFloat32, "float32", isa, 2e-5);
      check_forward(*model, Precision::kBFloat16, "bfloat16", isa, 2e-2);
      check_forward(*model, Precision::kInt8, "int8", isa, 0.1);
    }
  }
  check_prefix_split();
  for (const CpuIsa isa : isas) {
    for (const Precision precision :
         {Precision::kFloat32, Precision::kBFloat16, Precision::kInt8}) {
      try {
        check_shared_prefix(causal, precision, isa);
      } catch (const std::invalid_argument&) {
        continue;  // check_forward() has said that this type is missing
      }
    }
    std::printf("%s: a shared prefix changes nothing\n", isa_name(isa));
  }
}

}  // namespace
}  // namespace pycat

int main() {
  pycat::check();
  return 0;
}
