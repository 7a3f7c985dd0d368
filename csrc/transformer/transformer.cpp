#include "transformer/transformer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "base/int_math.h"
#include "cross_entropy/cross_entropy.h"
#include "cross_entropy/token_stats.h"

namespace pycat {
namespace {

// A chunk of a weight that stays in the L2 cache while a block of panels passes by.
constexpr std::int64_t kChunkBytes = 192 << 10;
// Panels that pass through both layers of a feed-forward at a time: its wide middle stays in cache.
constexpr std::int64_t kBlockPanels = 8;
// Vectors read and write whole registers past the end of what they are about.
constexpr std::int64_t kSlack = 64;

/// Memory that grows to the largest wanted so far and is then used again: no page faults.
template <class T>
class Buffer {
 public:
  T* at_least(std::int64_t size) {
    if (size > size_) {
      array_ = AlignedArray<T>(size);
      size_ = size;
      std::fill_n(array_.data(), size, T{});
    }
    return array_.data();
  }

 private:
  AlignedArray<T> array_;
  std::int64_t size_ = 0;
};

struct Memory {
  Buffer<float> source;
  Buffer<float> target;
  Buffer<float> normed;
  Buffer<std::uint32_t> words;
  Buffer<float> scales;
  Buffer<std::uint32_t> memory_units;
  Buffer<float> memory_scales;
  Buffer<float> queries;
  Buffer<float> memory_rows;
  Buffer<float> attended;
  Buffer<float> attention;
  Buffer<std::uint32_t> middle;
  Buffer<float> middle_rows;
  Buffer<float> middle_scales;
  Buffer<float> fields;
  Buffer<double> norms;
  Buffer<TargetLogit> wanted;
  Buffer<LinearPanel> panels;
};

thread_local Memory memory;

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

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
  require(precision == Precision::kFloat32,
          std::string("this processor, or the instruction set ") + isa_name(isa) +
              " that it is told to use, has no " +
              (precision == Precision::kInt8 ? "int8" : "bfloat16") + " products; use float32");
  return kPortableFloat32;
}

}  // namespace

/// One call of score(): all panels of a batch through all layers.
class Transformer::Pass {
 public:
  Pass(const Transformer& model, const PackedTokens& source, const std::int64_t* inputs,
       const TokenTargets& targets)
      : model_(model),
        weights_(model.weights_),
        math_(*model.math_),
        format_(*model.format_),
        lanes_(math_.panel_tokens),
        width_(weights_.d_model),
        panel_size_(round_up(width_, format_.tile_rows) * lanes_),
        units_size_(divide_up(width_, format_.elements_per_word) * lanes_),
        source_(side(source)),
        target_(side({inputs, targets.num_tokens, targets.cu_seqlens, targets.num_sequences})) {
    longest_ = std::max(longest(source_.tokens), longest(target_.tokens));
    const std::int64_t most = std::max(source_.num_panels, target_.num_panels);
    const std::int64_t head_width = width_ / weights_.num_heads;
    units_ = memory.words.at_least(most * lanes_ * width_ + kSlack);
    scales_ = memory.scales.at_least(most * lanes_);
    normed_ = memory.normed.at_least(panel_size_ + kSlack);
    queries_ = memory.queries.at_least(most * 3 * panel_size_ + kSlack);
    attended_row_ = lanes_ + math_.lanes;
    attended_ = memory.attended.at_least(most * width_ * attended_row_ + kSlack);
    scratch_ = memory.attention.at_least(attention_scratch(head_width, longest_, longest_));
  }

  void run(const TokenTargets& targets, SequenceResults& results) {
    float* x = embed(source_, weights_.source, memory.source, "source");
    for (std::size_t i = 0; i < model_.encoder_.size(); ++i) {
      const Layer& layer = model_.encoder_[i];
      const LayerWeights& weights = weights_.encoder[i];
      attend_self(layer.self, weights.self.norm, source_, x, false);
      feed_forward(layer, weights.feed_forward.norm, source_, x);
    }
    if (weights_.encoder_norm.weight != nullptr) norm_all(weights_.encoder_norm, source_, x);
    std::uint32_t* memory_units =
        memory.memory_units.at_least(source_.num_panels * lanes_ * width_ + kSlack);
    float* memory_scales = memory.memory_scales.at_least(source_.num_panels * lanes_);
    for (std::int64_t p = 0; p < source_.num_panels; ++p) {
      format_.to_words(x + p * panel_size_, lanes_, width_, memory_units + p * units_size_,
                       memory_scales + p * lanes_);
    }
    const Panels encoded = {memory_units, memory_scales, units_size_, source_.num_panels};
    x = embed(target_, weights_.target, memory.target, "target");
    for (std::size_t i = 0; i < model_.decoder_.size(); ++i) {
      const Layer& layer = model_.decoder_[i];
      const LayerWeights& weights = weights_.decoder[i];
      attend_self(layer.self, weights.self.norm, target_, x, true);
      attend_memory(layer.cross, weights.cross.norm, encoded, x);
      feed_forward(layer, weights.feed_forward.norm, target_, x);
    }
    if (weights_.decoder_norm.weight != nullptr) norm_all(weights_.decoder_norm, target_, x);
    score_targets(x, targets, results);
  }

 private:
  struct Side {
    PackedTokens tokens;
    std::int64_t num_tokens;
    std::int64_t num_panels;
  };

  /// What a product reads: `count` panels of `size` words.
  struct Panels {
    const std::uint32_t* words;
    const float* scales;
    std::int64_t size;
    std::int64_t count;
  };

  Side side(const PackedTokens& tokens) const {
    check_cu_seqlens(tokens.cu_seqlens, tokens.num_sequences, tokens.num_tokens, "tokens");
    return {tokens, tokens.num_tokens, divide_up(tokens.num_tokens, lanes_)};
  }

  static std::int64_t longest(const PackedTokens& tokens) {
    std::int64_t most = 0;
    for (std::int64_t b = 0; b < tokens.num_sequences; ++b) {
      most = std::max<std::int64_t>(most, tokens.cu_seqlens[b + 1] - tokens.cu_seqlens[b]);
    }
    return most;
  }

  float* embed(const Side& side, const EmbeddingWeights& weights, Buffer<float>& buffer,
               const char* name) {
    float* x = buffer.at_least(side.num_panels * panel_size_ + kSlack);
    const float scale = weights_.embedding_scale;
    for (std::int64_t b = 0; b < side.tokens.num_sequences; ++b) {
      const std::int64_t first = side.tokens.cu_seqlens[b];
      const std::int64_t last = side.tokens.cu_seqlens[b + 1];
      require(last - first <= weights.num_positions,
              std::string("a ") + name + " has " + std::to_string(last - first) +
                  " tokens; the model has " + std::to_string(weights.num_positions) + " positions");
      for (std::int64_t t = first; t < last; ++t) {
        const std::int64_t id = side.tokens.tokens[t];
        require(id >= 0 && id < weights.vocab_size,
                std::string("token ") + std::to_string(id) + " of a " + name +
                    " is outside of the model's vocabulary of " +
                    std::to_string(weights.vocab_size));
        const float* token = weights.tokens + id * width_;
        const float* position = weights.positions + (t - first) * width_;
        float* out = x + t / lanes_ * panel_size_ + t % lanes_;
        for (std::int64_t f = 0; f < width_; ++f) {
          out[f * lanes_] = token[f] * scale + position[f];
        }
      }
    }
    clear_rest(side, x);
    if (weights.norm.weight != nullptr) norm_all(weights.norm, side, x);
    return x;
  }

  /// Zeros in the lanes beyond the last token: what is computed there stays finite.
  void clear_rest(const Side& side, float* x) const {
    for (std::int64_t t = side.num_tokens; t < side.num_panels * lanes_; ++t) {
      float* out = x + t / lanes_ * panel_size_ + t % lanes_;
      for (std::int64_t f = 0; f < width_; ++f) out[f * lanes_] = 0.0F;
    }
  }

  void norm(const NormWeights& weights, const float* x, float* out) const {
    math_.normalize(x, weights.weight, weights.bias, width_, weights_.epsilon, out);
  }

  void norm_all(const NormWeights& weights, const Side& side, float* x) const {
    for (std::int64_t p = 0; p < side.num_panels; ++p) {
      norm(weights, x + p * panel_size_, x + p * panel_size_);
    }
  }

  /// What a sublayer reads of x, as words.
  Panels read_input(const NormWeights& weights, const Side& side, const float* x) const {
    for (std::int64_t p = 0; p < side.num_panels; ++p) {
      const float* rows = x + p * panel_size_;
      if (weights_.norm_first) {
        norm(weights, rows, normed_);
        rows = normed_;
      }
      format_.to_words(rows, lanes_, width_, units_ + p * units_size_, scales_ + p * lanes_);
    }
    return {units_, scales_, units_size_, side.num_panels};
  }

  /// Panels through a linear layer, a chunk of its weight at a time. `out_size`: words of a panel.
  void multiply(const PackedLinear& layer, Epilogue finish, const Panels& in, void* out,
                std::int64_t out_size) const {
    const auto product = format_.multiply[static_cast<std::size_t>(finish)];
    const std::int64_t chunk_tiles =
        std::max<std::int64_t>(1, kChunkBytes / (4 * layer.tile_words));
    for (std::int64_t tile = 0; tile < layer.num_tiles; tile += chunk_tiles) {
      const std::int64_t count = std::min(chunk_tiles, layer.num_tiles - tile);
      const std::uint32_t* tiles = layer.tiles.data() + tile * layer.tile_words;
      for (std::int64_t p = 0; p < in.count; ++p) {
        prefetch_next(layer, tile + count, chunk_tiles, p, in.count);
        product({tiles, count, layer.row_words, tile * format_.tile_rows, in.words + p * in.size,
                 in.scales + p * lanes_, static_cast<float*>(out) + p * out_size});
      }
    }
  }

  /// Fetches a share of the following chunk while this one is computed.
  static void prefetch_next(const PackedLinear& layer, std::int64_t tile, std::int64_t chunk_tiles,
                            std::int64_t part, std::int64_t num_parts) {
    const std::int64_t count = std::min(chunk_tiles, layer.num_tiles - tile);
    if (count <= 0) return;
    const char* begin = reinterpret_cast<const char*>(layer.tiles.data() + tile * layer.tile_words);
    const std::int64_t num_bytes = count * layer.tile_words * 4;
    const std::int64_t part_bytes = divide_up(num_bytes, num_parts);
    const std::int64_t end = std::min(num_bytes, part_bytes * (part + 1));
    for (std::int64_t at = part_bytes * part; at < end; at += 64) {
      __builtin_prefetch(begin + at, 0, 2);
    }
  }

  void attend_self(const Attention& attention, const NormWeights& weights, const Side& side,
                   float* x, bool causal) {
    const Panels in = read_input(weights, side, x);
    const std::int64_t size = attention.query.rows * lanes_;
    multiply(attention.query, Epilogue::kStore, in, queries_, size);
    const PanelRows rows = {queries_, size, 0};
    attend(rows, side, rows, width_, side, causal);
    add_attended(attention.output, weights, side, x);
  }

  void attend_memory(const Attention& attention, const NormWeights& weights, const Panels& encoded,
                     float* x) {
    const Panels in = read_input(weights, target_, x);
    const std::int64_t size = attention.query.rows * lanes_;
    multiply(attention.query, Epilogue::kStore, in, queries_, size);
    const std::int64_t memory_size = attention.key_value.rows * lanes_;
    float* rows = memory.memory_rows.at_least(encoded.count * memory_size + kSlack);
    multiply(attention.key_value, Epilogue::kStore, encoded, rows, memory_size);
    attend({queries_, size, 0}, target_, {rows, memory_size, 0}, 0, source_, false);
    add_attended(attention.output, weights, target_, x);
  }

  /// Every head of every sentence; keys begin at row `first_key_row` of `memory`, then values.
  void attend(const PanelRows& queries, const Side& query_side, const PanelRows& keys,
              std::int64_t first_key_row, const Side& key_side, bool causal) {
    const std::int64_t head_width = width_ / weights_.num_heads;
    AttentionHead head = {};
    head.queries = queries;
    head.keys = head.values = keys;
    head.width = head_width;
    head.scale = 1.0F / std::sqrt(static_cast<float>(head_width));
    head.causal = causal;
    head.out = attended_;
    head.out_panel_size = width_ * attended_row_;
    head.scratch = scratch_;
    for (std::int64_t b = 0; b < query_side.tokens.num_sequences; ++b) {
      head.first_query = query_side.tokens.cu_seqlens[b];
      head.num_queries = query_side.tokens.cu_seqlens[b + 1] - head.first_query;
      head.first_key = key_side.tokens.cu_seqlens[b];
      head.num_keys = key_side.tokens.cu_seqlens[b + 1] - head.first_key;
      for (std::int64_t h = 0; h < weights_.num_heads; ++h) {
        head.queries.first_row = head.out_row = h * head_width;
        head.keys.first_row = first_key_row + h * head_width;
        head.values.first_row = head.keys.first_row + width_;
        math_.attend(head);
      }
    }
  }

  void add_attended(const PackedLinear& output, const NormWeights& weights, const Side& side,
                    float* x) {
    const std::int64_t size = width_ * attended_row_;
    for (std::int64_t p = 0; p < side.num_panels; ++p) {
      format_.to_words(attended_ + p * size, attended_row_, width_, units_ + p * units_size_,
                       scales_ + p * lanes_);
    }
    multiply(output, Epilogue::kAdd, {units_, scales_, units_size_, side.num_panels}, x,
             panel_size_);
    if (!weights_.norm_first) norm_all(weights, side, x);
  }

  void feed_forward(const Layer& layer, const NormWeights& weights, const Side& side, float* x) {
    const Panels in = read_input(weights, side, x);
    // Of the rows that the last tile fills up the words are written, and never read.
    const std::int64_t rows_size = layer.up.rows * lanes_;
    const std::int64_t middle_size = rows_size / format_.elements_per_word;
    std::uint32_t* middle = memory.middle.at_least(kBlockPanels * middle_size);
    float* scales = memory.middle_scales.at_least(kBlockPanels * lanes_);
    for (std::int64_t first = 0; first < side.num_panels; first += kBlockPanels) {
      const Panels block = {in.words + first * in.size, in.scales + first * lanes_, in.size,
                            std::min(kBlockPanels, side.num_panels - first)};
      if (format_.activates_to_words) {
        multiply(layer.up, weights_.activation, block, middle, middle_size);
      } else {
        float* rows = memory.middle_rows.at_least(kBlockPanels * rows_size);
        multiply(layer.up, weights_.activation, block, rows, rows_size);
        for (std::int64_t p = 0; p < block.count; ++p) {
          format_.to_words(rows + p * rows_size, lanes_, layer.down.width, middle + p * middle_size,
                           scales + p * lanes_);
        }
      }
      multiply(layer.down, Epilogue::kAdd, {middle, scales, middle_size, block.count},
               x + first * panel_size_, panel_size_);
    }
    if (!weights_.norm_first) norm_all(weights, side, x);
  }

  /// The last hidden states times the output layer.
  void score_targets(float* x, const TokenTargets& targets, SequenceResults& results) {
    const PackedLinear& head = model_.head_;
    const LinearKernel& kernel = *model_.head_kernel_;
    const std::int64_t units_size = head.row_words * lanes_;
    std::uint32_t* words = memory.words.at_least(target_.num_panels * units_size);
    float* fields = memory.fields.at_least(target_.num_panels * kNumTokenFields * lanes_);
    double* norms = memory.norms.at_least(target_.num_panels * lanes_);
    TargetLogit* wanted = memory.wanted.at_least(target_.num_panels * (lanes_ + 1));
    LinearPanel* panels = memory.panels.at_least(target_.num_panels);
    const bool all_stats = targets.num_stats > 1;
    for (std::int64_t p = 0; p < target_.num_panels; ++p) {
      float* rows = x + p * panel_size_;
      if (weights_.head_scale != 1.0F) {
        for (std::int64_t i = 0; i < width_ * lanes_; ++i) rows[i] *= weights_.head_scale;
      }
      if (all_stats) hidden_norms(rows, norms + p * lanes_);
      model_.head_format_->to_words(rows, lanes_, width_, words + p * units_size, nullptr);
      panels[p] = begin_panel(targets, p, words + p * units_size,
                              fields + p * kNumTokenFields * lanes_, wanted + p * (lanes_ + 1));
    }
    const std::int64_t chunk_tiles = std::max<std::int64_t>(1, kChunkBytes / (4 * head.tile_words));
    for (std::int64_t tile = 0; tile < head.num_tiles; tile += chunk_tiles) {
      const LinearChunk chunk = {head.tiles.data() + tile * head.tile_words,
                                 std::min(chunk_tiles, head.num_tiles - tile), head.row_words,
                                 tile * kernel.tile_rows};
      for (std::int64_t p = 0; p < target_.num_panels; ++p) {
        prefetch_next(head, tile + chunk.num_tiles, chunk_tiles, p, target_.num_panels);
        kernel.score(chunk, panels[p], all_stats);
      }
    }
    SequenceSums sums(targets, results);
    while (sums.next_range()) {
      for (const std::int64_t t : sums.tokens()) {
        finish_token(panels[t / lanes_].fields + t % lanes_, lanes_, norms[t], targets.num_stats,
                     sums.values(0, t), sums.stat_stride());
      }
      sums.add_range();
    }
    sums.finish();
  }

  void hidden_norms(const float* rows, double* norms) const {
    std::fill_n(norms, lanes_, 0.0);
    for (std::int64_t f = 0; f < width_; ++f) {
      for (std::int64_t i = 0; i < lanes_; ++i) {
        const auto value = static_cast<double>(rows[f * lanes_ + i]);
        norms[i] += value * value;
      }
    }
    for (std::int64_t i = 0; i < lanes_; ++i) norms[i] = std::sqrt(norms[i]);
  }

  LinearPanel begin_panel(const TokenTargets& targets, std::int64_t p, const std::uint32_t* words,
                          float* fields, TargetLogit* wanted) const {
    const std::int64_t first = p * lanes_;
    std::int64_t count = 0;
    for (std::int64_t t = first; t < std::min(first + lanes_, target_.num_tokens); ++t) {
      const std::int64_t target = targets.targets[t];
      if (target >= 0 && target < targets.vocab_size) wanted[count++] = {target, t - first};
    }
    std::sort(wanted, wanted + count,
              [](const TargetLogit& a, const TargetLogit& b) { return a.row < b.row; });
    wanted[count] = {std::numeric_limits<std::int64_t>::max(), 0};
    std::fill_n(fields, kNumTokenFields * lanes_, 0.0F);
    std::fill_n(fields + kReference * lanes_, lanes_, std::numeric_limits<float>::lowest());
    std::fill_n(fields + kMaxLogit * lanes_, lanes_, -std::numeric_limits<float>::infinity());
    return {words, fields, wanted};
  }

  const Transformer& model_;
  const TransformerWeights& weights_;
  const PanelMath& math_;
  const PanelFormat& format_;
  std::int64_t lanes_;
  std::int64_t width_;
  std::int64_t panel_size_;  // floats of a panel of x
  std::int64_t units_size_;
  Side source_;
  Side target_;
  std::int64_t longest_ = 0;
  std::uint32_t* units_;
  float* scales_;
  float* normed_;
  float* queries_;
  float* attended_;
  std::int64_t attended_row_;
  float* scratch_;
};

Transformer::Transformer(const TransformerWeights& weights, Precision precision, CpuIsa isa)
    : weights_(weights), math_(&math_of(isa)), format_(&format_of(isa, precision)) {
  const std::int64_t heads = weights.num_heads;
  require(heads > 0 && weights.d_model % heads == 0 && weights.d_model / heads % 8 == 0,
          "a model of width " + std::to_string(weights.d_model) + " with " + std::to_string(heads) +
              " heads; expected heads whose width is a multiple of 8");
  // int8 would cost the output layer too much of its precision: a logit is an exponent.
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
  layer.up = packed(weights.feed_forward.up);
  layer.down = packed(weights.feed_forward.down);
  return layer;
}

void Transformer::score(const PackedTokens& source, const std::int64_t* inputs,
                        const TokenTargets& targets, SequenceResults& results) const {
  Pass(*this, source, inputs, targets).run(targets, results);
}

}  // namespace pycat
