#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "base/int_math.h"
#include "cross_entropy/linear_panels.h"
#include "cross_entropy/token_stats.h"
#include "transformer/panels.h"
#include "transformer/transformer.h"

namespace pycat {
namespace {

// Panels that pass through both layers of a feed-forward at a time: its wide middle stays in cache.
constexpr std::int64_t kBlockPanels = 8;
// Elements that vectors may read and write past the end of a buffer.
constexpr std::int64_t kSlack = 64;

/// One thread's memory.
struct Workspace {
  Buffer<float> source;         // hidden states of the encoder
  Buffer<float> target;         // hidden states of the decoder
  Buffer<float> normed;         // one panel
  PackedBuffer input;           // of the layer that is computed
  PackedBuffer encoded;         // what the encoder returned
  Buffer<float> queries;        // with keys and values in self-attention
  Buffer<float> keys_values;    // of cross-attention
  Buffer<float> attended;       // outputs of all heads
  Buffer<float> head_scratch;   // of one head
  Buffer<float> middle_rows;    // of a feed-forward, where activations leave float32
  PackedBuffer middle;          // of a feed-forward
  Buffer<float> fields;         // of the output layer
  Buffer<double> hidden_norms;  // of the output layer
  Buffer<TargetLogit> targets;  // of the output layer
  Buffer<LinearPanel> panels;   // of the output layer
};

thread_local Workspace thread_workspace;

PackedTokens checked(const PackedTokens& tokens) {
  check_cu_seqlens(tokens.cu_seqlens, tokens.num_sequences, tokens.num_tokens, "tokens");
  return tokens;
}

std::int64_t longest_sequence(const PackedTokens& tokens) {
  std::int64_t longest = 0;
  for (std::int64_t b = 0; b < tokens.num_sequences; ++b) {
    longest = std::max<std::int64_t>(longest, tokens.cu_seqlens[b + 1] - tokens.cu_seqlens[b]);
  }
  return longest;
}

std::int64_t chunk_tiles(const PackedLinear& layer) {
  return std::max<std::int64_t>(1, kChunkBytes / (4 * layer.tile_words));
}

}  // namespace

/// One batch through all layers. Hidden states are panels of tokens: a layer reads them normed and
/// packed for its products, and adds its result to them.
class Transformer::Pass {
 public:
  Pass(const Transformer& model, const PackedTokens& source, const PackedTokens& target)
      : model_(model),
        weights_(model.weights_),
        math_(*model.math_),
        format_(*model.format_),
        panel_tokens_(math_.panel_tokens),
        width_(weights_.d_model),
        source_(checked(source)),
        target_(checked(target)),
        longest_(std::max(longest_sequence(source), longest_sequence(target))),
        workspace_(thread_workspace) {}

  void run(const TokenTargets& targets, SequenceResults& results) {
    const Panels x = embed(source_, weights_.source, workspace_.source, "source");
    for (std::size_t i = 0; i < model_.encoder_.size(); ++i) {
      const Layer& layer = model_.encoder_[i];
      const LayerWeights& weights = weights_.encoder[i];
      self_attention(layer.self, weights.self.norm, source_, x, /*causal=*/false);
      feed_forward(layer, weights.feed_forward.norm, x);
    }
    if (weights_.encoder_norm.weight != nullptr) normalize(weights_.encoder_norm, x);
    const PackedPanels encoded = pack(format_, x, workspace_.encoded);

    const Panels y = embed(target_, weights_.target, workspace_.target, "target");
    for (std::size_t i = 0; i < model_.decoder_.size(); ++i) {
      const Layer& layer = model_.decoder_[i];
      const LayerWeights& weights = weights_.decoder[i];
      self_attention(layer.self, weights.self.norm, target_, y, /*causal=*/true);
      cross_attention(layer.cross, weights.cross.norm, encoded, y);
      feed_forward(layer, weights.feed_forward.norm, y);
    }
    if (weights_.decoder_norm.weight != nullptr) normalize(weights_.decoder_norm, y);
    score_targets(y, targets, results);
  }

 private:
  // The layers.

  /// Token plus position; zeros in the lanes behind the last token, so that they stay finite.
  Panels embed(const PackedTokens& side, const EmbeddingWeights& weights, Buffer<float>& buffer,
               const char* name) {
    const Panels x = panels(buffer, divide_up(side.num_tokens, panel_tokens_),
                            round_up(width_, format_.tile_rows));
    for (std::int64_t b = 0; b < side.num_sequences; ++b) {
      const std::int64_t first = side.cu_seqlens[b];
      const std::int64_t last = side.cu_seqlens[b + 1];
      if (last - first > weights.num_positions) {
        throw std::invalid_argument(std::string("a ") + name + " has " +
                                    std::to_string(last - first) + " tokens; the model has " +
                                    std::to_string(weights.num_positions) + " positions");
      }
      std::int64_t place = 0;
      for (std::int64_t t = first; t < last; ++t) {
        const std::int64_t id = side.tokens[t];
        if (id < 0 || id >= weights.vocab_size) {
          throw std::invalid_argument("token " + std::to_string(id) + " of a " + name +
                                      " is outside of the model's vocabulary of " +
                                      std::to_string(weights.vocab_size));
        }
        const float* token = weights.tokens + id * width_;  // (D,)
        float* out = x.panel(t / panel_tokens_) + t % panel_tokens_;
        if (id == weights.uncounted_token) {
          for (std::int64_t f = 0; f < width_; ++f) {
            out[f * panel_tokens_] = token[f] * weights_.embedding_scale;
          }
          continue;
        }
        const float* position = weights.positions + place++ * width_;  // (D,)
        for (std::int64_t f = 0; f < width_; ++f) {
          out[f * panel_tokens_] = token[f] * weights_.embedding_scale + position[f];
        }
      }
    }
    for (std::int64_t t = side.num_tokens; t < x.count * panel_tokens_; ++t) {
      float* out = x.panel(t / panel_tokens_) + t % panel_tokens_;
      for (std::int64_t f = 0; f < width_; ++f) out[f * panel_tokens_] = 0.0F;
    }
    if (weights.norm.weight != nullptr) normalize(weights.norm, x);
    return x;
  }

  void self_attention(const Attention& attention, const NormWeights& norm, const PackedTokens& side,
                      const Panels& x, bool causal) {
    const PackedPanels in = pre_norm(norm, x);
    const Panels projected = linear(attention.query, in, workspace_.queries);  // 3 D features
    const Panels heads = attend(projected, side, projected, width_, side, causal);
    add_linear(attention.output, pack(format_, heads, workspace_.input), x);
    post_norm(norm, x);
  }

  void cross_attention(const Attention& attention, const NormWeights& norm,
                       const PackedPanels& encoded, const Panels& x) {
    const PackedPanels in = pre_norm(norm, x);
    const Panels queries = linear(attention.query, in, workspace_.queries);
    const Panels keys_values = linear(attention.key_value, encoded, workspace_.keys_values);
    const Panels heads = attend(queries, target_, keys_values, 0, source_, /*causal=*/false);
    add_linear(attention.output, pack(format_, heads, workspace_.input), x);
    post_norm(norm, x);
  }

  void feed_forward(const Layer& layer, const NormWeights& norm, const Panels& x) {
    const PackedPanels in = pre_norm(norm, x);
    for (std::int64_t first = 0; first < x.count; first += kBlockPanels) {
      const std::int64_t count = std::min(kBlockPanels, x.count - first);
      const PackedPanels middle =
          activated_linear(layer.ff1, slice(in, first, count), layer.ff2.width);
      add_linear(layer.ff2, middle, slice(x, first, count));
    }
    post_norm(norm, x);
  }

  /// Statistics of the targets from the last hidden states `x` times the output layer.
  void score_targets(const Panels& x, const TokenTargets& targets, SequenceResults& results) {
    const LinearKernel& kernel = *model_.head_kernel_;
    const bool all_stats = targets.num_stats > 1;
    if (weights_.head_scale != 1.0F) scale(x, weights_.head_scale);
    double* hidden_norms = workspace_.hidden_norms.at_least(x.count * panel_tokens_);
    if (all_stats) write_norms(x, hidden_norms);
    const PackedPanels hidden = pack(*model_.head_format_, x, workspace_.input);

    LinearPanel* scored = workspace_.panels.at_least(x.count);
    for (std::int64_t p = 0; p < x.count; ++p) scored[p] = begin_scoring(targets, hidden, p);
    for_each_chunk(
        model_.head_, model_.head_.num_tiles, chunk_tiles(model_.head_), x.count,
        [&](const std::uint32_t* tiles, std::int64_t tile, std::int64_t count, std::int64_t p) {
          kernel.score({tiles, count, model_.head_.row_words, tile * kernel.tile_rows}, scored[p],
                       all_stats);
        });

    SequenceSums sums(targets, results);
    while (sums.next_range()) {
      for (const std::int64_t t : sums.tokens()) {
        finish_token(scored[t / panel_tokens_].fields + t % panel_tokens_, panel_tokens_,
                     hidden_norms[t], targets.num_stats, sums.values(0, t), sums.stat_stride());
      }
      sums.add_range();
    }
    sums.finish();
  }

  // What the layers consist of.

  /// Packs the input of a layer, which is normed first if norms come before layers.
  PackedPanels pre_norm(const NormWeights& norm, const Panels& x) {
    if (!weights_.norm_first) return pack(format_, x, workspace_.input);
    const PackedPanels packed = packed_panels(workspace_.input, format_, x.count);
    // A panel is packed while its norm is in the nearest cache.
    float* normed = workspace_.normed.at_least(x.panel_floats + kSlack);
    for (std::int64_t p = 0; p < x.count; ++p) {
      math_.normalize(x.panel(p), norm.weight, norm.bias, width_, weights_.epsilon, normed);
      format_.to_words(normed, x.row_stride, width_, packed.panel(p), packed.panel_scales(p));
    }
    return packed;
  }

  /// Norms the sum of a layer and its input if norms come after layers.
  void post_norm(const NormWeights& norm, const Panels& x) const {
    if (!weights_.norm_first) normalize(norm, x);
  }

  void normalize(const NormWeights& norm, const Panels& x) const {
    for (std::int64_t p = 0; p < x.count; ++p) {
      math_.normalize(x.panel(p), norm.weight, norm.bias, width_, weights_.epsilon, x.panel(p));
    }
  }

  /// The outputs of all heads of all sentences. In each panel of `keys_values` the keys begin at
  /// row `first_key_row`, and the values `width_` rows behind them.
  Panels attend(const Panels& queries, const PackedTokens& query_side, const Panels& keys_values,
                std::int64_t first_key_row, const PackedTokens& key_side, bool causal) {
    const std::int64_t head_width = width_ / weights_.num_heads;
    // Rows are longer than a panel's tokens: the last vector of a sentence may be written past
    // them.
    const std::int64_t row_stride = panel_tokens_ + math_.lanes;
    const Panels attended = {
        workspace_.attended.at_least(queries.count * width_ * row_stride + kSlack), queries.count,
        width_ * row_stride, row_stride};
    AttentionHead head = {};
    head.queries = {queries.data, queries.panel_floats, 0};
    head.keys = head.values = {keys_values.data, keys_values.panel_floats, 0};
    head.width = head_width;
    head.scale = 1.0F / std::sqrt(static_cast<float>(head_width));
    head.causal = causal;
    head.out = attended.data;
    head.out_panel_floats = attended.panel_floats;
    head.scratch =
        workspace_.head_scratch.at_least(attention_scratch(head_width, longest_, longest_));
    for (std::int64_t b = 0; b < query_side.num_sequences; ++b) {
      head.first_query = query_side.cu_seqlens[b];
      head.num_queries = query_side.cu_seqlens[b + 1] - head.first_query;
      head.first_key = key_side.cu_seqlens[b];
      head.num_keys = key_side.cu_seqlens[b + 1] - head.first_key;
      for (std::int64_t h = 0; h < weights_.num_heads; ++h) {
        head.queries.first_row = head.out_row = h * head_width;
        head.keys.first_row = first_key_row + h * head_width;
        head.values.first_row = head.keys.first_row + width_;
        math_.attend(head);
      }
    }
    return attended;
  }

  /// The layer's output.
  Panels linear(const PackedLinear& layer, const PackedPanels& in, Buffer<float>& buffer) const {
    const Panels out = panels(buffer, in.count, layer.rows);
    multiply(layer, Epilogue::kStore, in, out.data, out.panel_floats);
    return out;
  }

  /// Adds the layer's output to `x`, the residual.
  void add_linear(const PackedLinear& layer, const PackedPanels& in, const Panels& x) const {
    multiply(layer, Epilogue::kAdd, in, x.data, x.panel_floats);
  }

  /// The activation of the layer's output, whose first `width` features are packed.
  PackedPanels activated_linear(const PackedLinear& layer, const PackedPanels& in,
                                std::int64_t width) const {
    const std::int64_t panel_words = layer.rows * panel_tokens_ / format_.elements_per_word;
    const PackedPanels out = {workspace_.middle.words.at_least(in.count * panel_words),
                              workspace_.middle.scales.at_least(in.count * panel_tokens_), in.count,
                              panel_words, panel_tokens_};
    if (format_.activates_to_words) {
      // Words of rows that fill the last tile are written too, and never read.
      multiply(layer, weights_.activation, in, out.words, panel_words);
      return out;
    }
    const Panels rows = panels(workspace_.middle_rows, in.count, layer.rows);
    multiply(layer, weights_.activation, in, rows.data, rows.panel_floats);
    for (std::int64_t p = 0; p < in.count; ++p) {
      format_.to_words(rows.panel(p), rows.row_stride, width, out.panel(p), out.panel_scales(p));
    }
    return out;
  }

  /// Multiplies panels by a linear layer. Panels of `out` are `out_panel_words` words apart.
  void multiply(const PackedLinear& layer, Epilogue epilogue, const PackedPanels& in, void* out,
                std::int64_t out_panel_words) const {
    const auto product = format_.multiply[static_cast<std::size_t>(epilogue)];
    for_each_chunk(
        layer, layer.num_tiles, chunk_tiles(layer), in.count,
        [&](const std::uint32_t* tiles, std::int64_t tile, std::int64_t count, std::int64_t p) {
          product({tiles, count, layer.row_words, tile * format_.tile_rows, in.panel(p),
                   in.panel_scales(p), static_cast<float*>(out) + p * out_panel_words});
        });
  }

  /// Panels of `num_rows` features in `buffer`.
  Panels panels(Buffer<float>& buffer, std::int64_t count, std::int64_t num_rows) const {
    const std::int64_t panel_floats = num_rows * panel_tokens_;
    return {buffer.at_least(count * panel_floats + kSlack), count, panel_floats, panel_tokens_};
  }

  /// Packed panels of `width_` features in `buffer`.
  PackedPanels packed_panels(PackedBuffer& buffer, const PanelFormat& format,
                             std::int64_t count) const {
    const std::int64_t panel_words = divide_up(width_, format.elements_per_word) * panel_tokens_;
    return {buffer.words.at_least(count * panel_words + kSlack),
            buffer.scales.at_least(count * panel_tokens_), count, panel_words, panel_tokens_};
  }

  PackedPanels pack(const PanelFormat& format, const Panels& x, PackedBuffer& buffer) const {
    const PackedPanels packed = packed_panels(buffer, format, x.count);
    for (std::int64_t p = 0; p < x.count; ++p) {
      format.to_words(x.panel(p), x.row_stride, width_, packed.panel(p), packed.panel_scales(p));
    }
    return packed;
  }

  void scale(const Panels& x, float factor) const {
    for (std::int64_t p = 0; p < x.count; ++p) {
      for (std::int64_t i = 0; i < width_ * panel_tokens_; ++i) x.panel(p)[i] *= factor;
    }
  }

  /// Writes the norm of each token's features.
  void write_norms(const Panels& x, double* norms) const {
    std::fill_n(norms, x.count * panel_tokens_, 0.0);
    for (std::int64_t p = 0; p < x.count; ++p, norms += panel_tokens_) {
      for (std::int64_t f = 0; f < width_; ++f) {
        for (std::int64_t i = 0; i < panel_tokens_; ++i) {
          const auto value = static_cast<double>(x.panel(p)[f * panel_tokens_ + i]);
          norms[i] += value * value;
        }
      }
      for (std::int64_t i = 0; i < panel_tokens_; ++i) norms[i] = std::sqrt(norms[i]);
    }
  }

  /// Panel p of the output layer, with the targets of its tokens that lie in the vocabulary.
  LinearPanel begin_scoring(const TokenTargets& targets, const PackedPanels& hidden,
                            std::int64_t p) const {
    float* fields = workspace_.fields.at_least(hidden.count * kNumTokenFields * panel_tokens_);
    TargetLogit* logits = workspace_.targets.at_least(hidden.count * (panel_tokens_ + 1));
    fields += p * kNumTokenFields * panel_tokens_;
    logits += p * (panel_tokens_ + 1);
    const std::int64_t first = p * panel_tokens_;
    std::int64_t count = 0;
    for (std::int64_t t = first; t < std::min(first + panel_tokens_, targets.num_tokens); ++t) {
      const std::int64_t target = targets.targets[t];
      if (target >= 0 && target < targets.vocab_size) logits[count++] = {target, t - first};
    }
    return begin_panel(*model_.head_kernel_, hidden.panel(p), hidden.panel_scales(p), fields,
                       logits, count);
  }

  const Transformer& model_;
  const TransformerWeights& weights_;
  const PanelMath& math_;
  const PanelFormat& format_;
  std::int64_t panel_tokens_;
  std::int64_t width_;
  PackedTokens source_;
  PackedTokens target_;
  std::int64_t longest_;  // tokens of the longest sequence
  Workspace& workspace_;
};

void Transformer::score(const PackedTokens& source, const std::int64_t* inputs,
                        const TokenTargets& targets, SequenceResults& results) const {
  const PackedTokens target = {inputs, targets.num_tokens, targets.cu_seqlens,
                               targets.num_sequences};
  Pass(*this, source, target).run(targets, results);
}

}  // namespace pycat
