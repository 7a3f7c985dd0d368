#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "base/int_math.h"
#include "cross_entropy/linear_panels.h"
#include "cross_entropy/token_stats.h"
#include "transformer/panels.h"
#include "transformer/shared_prefix.h"
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
  SharedPrefix prefix;          // of a causal model
  Buffer<float> normed;         // one panel
  PackedBuffer input;           // of the layer that is computed
  PackedBuffer encoded;         // what the encoder returned
  Buffer<float> queries;        // with keys and values in self-attention
  Buffer<float> rotary[2];      // cosines and sines of a table's angles
  Buffer<float> relative;       // of one head
  Buffer<float> keys_values;    // of cross-attention
  Buffer<float> attended;       // outputs of all heads
  Buffer<float> head_scratch;   // of one head
  Buffer<float> middle_rows;    // of a feed-forward, where activations leave float32
  PackedBuffer middle;          // of a feed-forward
  Buffer<float> output;         // of a layer whose output is normed
  Buffer<float> counted;        // hidden states of the tokens that are scored
  Buffer<std::int64_t> places;  // of the tokens that are scored
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
        workspace_(thread_workspace),
        source_(checked(source)),
        target_(checked(target)),
        longest_(std::max(longest_sequence(source), longest_sequence(target))) {
    if (weights_.is_causal()) num_shared_ = num_shared_tokens(target_);
    if (num_shared_ > 0) target_ = workspace_.prefix.split(target_, num_shared_);
  }

  void run(const TokenTargets& targets, SequenceResults& results) {
    const PackedPanels encoded = weights_.is_causal() ? PackedPanels{} : encode();
    const Panels y = embed(target_, weights_.target, workspace_.target, "target");
    for (std::size_t i = 0; i < model_.decoder_.size(); ++i) {
      const Layer& layer = model_.decoder_[i];
      const LayerWeights& weights = weights_.decoder[i];
      self_attention(layer.self, weights.self, target_, y, /*causal=*/true);
      if (!weights_.is_causal()) cross_attention(layer.cross, weights.cross.norm, encoded, y);
      feed_forward(layer, weights.feed_forward, y);
    }
    if (weights_.decoder_norm.weight != nullptr) normalize(weights_.decoder_norm, y);
    score_targets(y, targets, results);
  }

 private:
  // The layers.

  PackedPanels encode() {
    const Panels x = embed(source_, weights_.source, workspace_.source, "source");
    for (std::size_t i = 0; i < model_.encoder_.size(); ++i) {
      const Layer& layer = model_.encoder_[i];
      const LayerWeights& weights = weights_.encoder[i];
      self_attention(layer.self, weights.self, source_, x, /*causal=*/false);
      feed_forward(layer, weights.feed_forward, x);
    }
    if (weights_.encoder_norm.weight != nullptr) normalize(weights_.encoder_norm, x);
    return pack(format_, x, width_, workspace_.encoded);
  }

  /// Tokens of a sequence that come before its first one here: the shared prefix of all but itself.
  std::int64_t num_before(std::int64_t b) const { return b == 0 ? 0 : num_shared_; }

  /// Token plus position; zeros in the lanes behind the last token, so that they stay finite.
  Panels embed(const PackedTokens& side, const EmbeddingWeights& weights, Buffer<float>& buffer,
               const char* name) {
    const Panels x = panels(buffer, divide_up(side.num_tokens, panel_tokens_),
                            round_up(width_, format_.tile_rows));
    std::int64_t shared_places = 0;
    for (std::int64_t b = 0; b < side.num_sequences; ++b) {
      const std::int64_t first = side.cu_seqlens[b];
      const std::int64_t last = side.cu_seqlens[b + 1];
      const std::int64_t length = num_before(b) + last - first;
      if (length > weights.num_positions) {
        throw std::invalid_argument(std::string("a ") + name + " has " + std::to_string(length) +
                                    " tokens; the model has " +
                                    std::to_string(weights.num_positions) + " positions");
      }
      std::int64_t place = shared_places;
      for (std::int64_t t = first; t < last; ++t) {
        const std::int64_t id = side.tokens[t];
        if (id < 0 || id >= weights.vocab_size) {
          throw std::invalid_argument("token " + std::to_string(id) + " of a " + name +
                                      " is outside of the model's vocabulary of " +
                                      std::to_string(weights.vocab_size));
        }
        const float* token = weights.tokens + id * width_;  // (D,)
        float* out = x.panel(t / panel_tokens_) + t % panel_tokens_;
        if (weights.positions == nullptr || id == weights.uncounted_token) {
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
      if (b == 0 && num_shared_ > 0) shared_places = place;
    }
    for (std::int64_t t = side.num_tokens; t < x.count * panel_tokens_; ++t) {
      float* out = x.panel(t / panel_tokens_) + t % panel_tokens_;
      for (std::int64_t f = 0; f < width_; ++f) out[f * panel_tokens_] = 0.0F;
    }
    if (weights.norm.weight != nullptr) normalize(weights.norm, x);
    return x;
  }

  void self_attention(const Attention& attention, const AttentionWeights& weights,
                      const PackedTokens& side, const Panels& x, bool causal) {
    const PackedPanels in = pre_norm(weights.norm, x);
    const Panels projected = linear(attention.query, in, workspace_.queries);  // Q + 2 KV features
    const std::int64_t query_width = weights_.query_width();
    norm_heads(weights.query_norm, projected, 0, weights_.num_heads);
    norm_heads(weights.key_norm, projected, query_width, weights_.num_kv_heads);
    if (weights.rotary != nullptr) rotate_heads(weights.rotary, side, projected);
    const Panels heads = attend(weights, projected, side, projected, query_width, side, causal);
    add_linear(attention.output, pack(format_, heads, query_width, workspace_.input),
               weights.output_norm, x);
    post_norm(weights.norm, x);
  }

  void cross_attention(const Attention& attention, const NormWeights& norm,
                       const PackedPanels& encoded, const Panels& x) {
    const PackedPanels in = pre_norm(norm, x);
    const Panels queries = linear(attention.query, in, workspace_.queries);
    const Panels keys_values = linear(attention.key_value, encoded, workspace_.keys_values);
    const Panels heads = attend({}, queries, target_, keys_values, 0, source_, /*causal=*/false);
    add_linear(attention.output, pack(format_, heads, weights_.query_width(), workspace_.input), {},
               x);
    post_norm(norm, x);
  }

  void feed_forward(const Layer& layer, const FeedForwardWeights& weights, const Panels& x) {
    const PackedPanels in = pre_norm(weights.norm, x);
    for (std::int64_t first = 0; first < x.count; first += kBlockPanels) {
      const std::int64_t count = std::min(kBlockPanels, x.count - first);
      const PackedPanels middle =
          activated_linear(layer.ff1, slice(in, first, count), layer.ff2.width);
      add_linear(layer.ff2, middle, weights.output_norm, slice(x, first, count));
    }
    post_norm(weights.norm, x);
  }

  /// Statistics of the targets from the last hidden states times the output layer, of which tokens
  /// without a target take no part.
  void score_targets(const Panels& all, const TokenTargets& targets, SequenceResults& results) {
    const LinearKernel& kernel = *model_.head_kernel_;
    const std::int64_t* places = workspace_.places.at_least(targets.num_tokens);
    const std::int64_t num_counted = find_counted(targets);
    const bool are_all = num_counted == targets.num_tokens && num_shared_ == 0;
    const Panels x = are_all ? all : counted(all, num_counted);
    const bool all_stats = targets.num_stats > 1;
    if (weights_.head_scale != 1.0F) scale(x, weights_.head_scale);
    double* hidden_norms = workspace_.hidden_norms.at_least(x.count * panel_tokens_);
    if (all_stats) write_norms(x, hidden_norms);
    const PackedPanels hidden = pack(*model_.head_format_, x, width_, workspace_.input);

    LinearPanel* scored = workspace_.panels.at_least(x.count);
    for (std::int64_t p = 0; p < x.count; ++p) {
      scored[p] = begin_scoring(targets, places, num_counted, hidden, p);
    }
    for_each_chunk(
        model_.head_, model_.head_.num_tiles, chunk_tiles(model_.head_), x.count,
        [&](const std::uint32_t* tiles, std::int64_t tile, std::int64_t count, std::int64_t p) {
          kernel.score({tiles, count, model_.head_.row_words, tile * kernel.tile_rows}, scored[p],
                       all_stats);
        });
    if (model_.exact_targets_) recompute_target_logits(x, targets, places, num_counted, scored);

    SequenceSums sums(targets, results);
    std::int64_t i = 0;  // the tokens of all ranges are those of `places`, in their order
    while (sums.next_range()) {
      for (const std::int64_t t : sums.tokens()) {
        finish_token(scored[i / panel_tokens_].fields + i % panel_tokens_, panel_tokens_,
                     hidden_norms[i], targets.num_stats, sums.values(0, t), sums.stat_stride());
        ++i;
      }
      sums.add_range();
    }
    sums.finish();
  }

  /// Computes the targets' logits in float32, from the states and weights before they were rounded
  /// to bytes. The rounding errors of all other logits nearly cancel in their sum of exponentials;
  /// the target's would remain.
  void recompute_target_logits(const Panels& x, const TokenTargets& targets,
                               const std::int64_t* places, std::int64_t num_counted,
                               const LinearPanel* scored) const {
    const LinearWeights& head = weights_.head;
    for (std::int64_t i = 0; i < num_counted; ++i) {
      const std::int64_t row = targets.targets[places[i]];
      const float* weight = head.weight + row * width_;                     // (D,)
      const float* state = x.panel(i / panel_tokens_) + i % panel_tokens_;  // D, a row apart
      float sums[4] = {};  // of every fourth feature; the width is a multiple of 4
      for (std::int64_t f = 0; f < width_; f += 4) {
        for (std::int64_t j = 0; j < 4; ++j) {
          sums[j] += state[(f + j) * x.row_stride] * weight[f + j];
        }
      }
      float logit = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      if (head.bias != nullptr) logit += head.bias[row];
      const float cap = weights_.head_softcap;
      if (cap > 0.0F) logit = cap * std::tanh(logit / cap);
      float* fields = scored[i / panel_tokens_].fields;
      fields[kTargetLogit * panel_tokens_ + i % panel_tokens_] = logit;
    }
  }

  /// Writes the tokens whose target is neither ignored nor out of range to `places`.
  std::int64_t find_counted(const TokenTargets& targets) const {
    std::int64_t* places = workspace_.places.at_least(targets.num_tokens);
    std::int64_t count = 0;
    for (std::int64_t t = 0; t < targets.num_tokens; ++t) {
      const std::int64_t target = targets.targets[t];
      const bool is_in_range = target >= 0 && target < targets.vocab_size;
      if (target != targets.ignore_index && is_in_range) places[count++] = t;
    }
    return count;
  }

  /// The tokens of `places` in panels of their own.
  Panels counted(const Panels& x, std::int64_t count) const {
    const std::int64_t* places = workspace_.places.at_least(count);
    const std::int64_t* behind_prefix = workspace_.prefix.places();
    const Panels out = panels(workspace_.counted, divide_up(count, panel_tokens_), width_);
    for (std::int64_t i = 0; i < out.count * panel_tokens_; ++i) {
      float* to = out.panel(i / panel_tokens_) + i % panel_tokens_;
      if (i >= count) {  // lanes behind the last token stay finite
        for (std::int64_t f = 0; f < width_; ++f) to[f * panel_tokens_] = 0.0F;
        continue;
      }
      const std::int64_t t = num_shared_ > 0 ? behind_prefix[places[i]] : places[i];
      const float* from = x.panel(t / panel_tokens_) + t % panel_tokens_;
      for (std::int64_t f = 0; f < width_; ++f) to[f * panel_tokens_] = from[f * panel_tokens_];
    }
    return out;
  }

  // What the layers consist of.

  /// Packs the input of a layer, which is normed first if norms come before layers.
  PackedPanels pre_norm(const NormWeights& norm, const Panels& x) {
    if (!weights_.norm_first) return pack(format_, x, width_, workspace_.input);
    const PackedPanels packed = packed_panels(workspace_.input, format_, width_, x.count);
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

  /// Norms heads of queries or keys, the first of which begins at row `first_row`.
  void norm_heads(const NormWeights& norm, const Panels& x, std::int64_t first_row,
                  std::int64_t num_heads) const {
    if (norm.weight == nullptr) return;
    for (std::int64_t p = 0; p < x.count; ++p) {
      for (std::int64_t h = 0; h < num_heads; ++h) {
        float* rows = x.panel(p) + (first_row + h * weights_.head_width) * panel_tokens_;
        math_.normalize(rows, norm.weight, norm.bias, weights_.head_width, weights_.epsilon, rows);
      }
    }
  }

  /// Rotates queries and keys, which lie one after the other, by the angles of their positions.
  void rotate_heads(const float* table, const PackedTokens& side, const Panels& x) {
    const float* angles = rotary_panels(table, side, x.count);
    const std::int64_t head_floats = weights_.head_width * panel_tokens_;
    for (std::int64_t p = 0; p < x.count; ++p) {
      for (std::int64_t h = 0; h < weights_.num_heads + weights_.num_kv_heads; ++h) {
        math_.rotate(x.panel(p) + h * head_floats, angles + p * head_floats,
                     weights_.head_width / 2);
      }
    }
  }

  /// Rows of a table of positions for each token of `side`, in panels: they are the same in every
  /// layer, and made once. No model has more than two tables.
  const float* rotary_panels(const float* table, const PackedTokens& side, std::int64_t count) {
    for (int i = 0; i < 2; ++i) {
      if (rotary_tables_[i] == table) return workspace_.rotary[i].at_least(0);
    }
    const int slot = rotary_tables_[0] == nullptr ? 0 : 1;
    rotary_tables_[slot] = table;
    const std::int64_t width = weights_.head_width;
    const Panels out = panels(workspace_.rotary[slot], count, width);
    std::fill_n(out.data, count * out.panel_floats, 0.0F);
    for (std::int64_t b = 0; b < side.num_sequences; ++b) {
      const std::int64_t first = side.cu_seqlens[b];
      for (std::int64_t t = first; t < side.cu_seqlens[b + 1]; ++t) {
        const float* row = table + (num_before(b) + t - first) * width;
        float* to = out.panel(t / panel_tokens_) + t % panel_tokens_;
        for (std::int64_t f = 0; f < width; ++f) to[f * panel_tokens_] = row[f];
      }
    }
    return out.data;
  }

  /// What a head adds to the scores of `num_queries` queries and `num_keys` keys, so that [i - j]
  /// may be read in whole vectors.
  const float* relative_scores(const float* head, std::int64_t num_queries, std::int64_t num_keys) {
    float* copy = workspace_.relative.at_least(num_queries + num_keys + kSlack);
    const float* middle = head + weights_.target.num_positions - 1;
    std::copy(middle - (num_keys - 1), middle + num_queries, copy);
    return copy + num_keys - 1;
  }

  /// The outputs of all heads of all sentences. In each panel of `keys_values` the keys begin at
  /// row `first_key_row`, and the values behind them.
  Panels attend(const AttentionWeights& weights, const Panels& queries,
                const PackedTokens& query_side, const Panels& keys_values,
                std::int64_t first_key_row, const PackedTokens& key_side, bool causal) {
    const std::int64_t head_width = weights_.head_width;
    const std::int64_t query_width = weights_.query_width();
    const std::int64_t group = weights_.num_heads / weights_.num_kv_heads;
    // Rows are longer than a panel's tokens: the last vector of a sentence may be written past
    // them.
    const std::int64_t row_stride = panel_tokens_ + math_.lanes;
    const Panels attended = {
        workspace_.attended.at_least(queries.count * query_width * row_stride + kSlack),
        queries.count, query_width * row_stride, row_stride};
    AttentionHead head = {};
    head.queries = {queries.data, queries.panel_floats, 0};
    head.keys = head.values = {keys_values.data, keys_values.panel_floats, 0};
    head.width = head_width;
    head.scale = weights_.attention_scale;
    head.causal = causal;
    head.window = weights.window;
    head.softcap = weights_.attention_softcap;
    head.out = attended.data;
    head.out_panel_floats = attended.panel_floats;
    head.scratch =
        workspace_.head_scratch.at_least(attention_scratch(head_width, longest_, longest_));
    for (std::int64_t b = 0; b < query_side.num_sequences; ++b) {
      head.first_query = query_side.cu_seqlens[b];
      head.num_queries = query_side.cu_seqlens[b + 1] - head.first_query;
      head.num_shared = num_before(b);
      head.first_key = key_side.cu_seqlens[b];
      head.num_keys = key_side.cu_seqlens[b + 1] - head.first_key;
      for (std::int64_t h = 0; h < weights_.num_heads; ++h) {
        head.queries.first_row = head.out_row = h * head_width;
        head.keys.first_row = first_key_row + h / group * head_width;
        head.values.first_row = head.keys.first_row + weights_.key_width();
        if (weights.relative != nullptr) {
          const std::int64_t row_floats = 2 * weights_.target.num_positions - 1;
          head.relative =
              relative_scores(weights.relative + h * row_floats, head.num_shared + head.num_queries,
                              head.num_shared + head.num_keys);
        }
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

  /// Adds the layer's output, normed first if the model norms it, to `x`, the residual.
  void add_linear(const PackedLinear& layer, const PackedPanels& in, const NormWeights& norm,
                  const Panels& x) const {
    if (norm.weight == nullptr) {
      multiply(layer, Epilogue::kAdd, in, x.data, x.panel_floats);
      return;
    }
    const Panels out = linear(layer, in, workspace_.output);
    normalize(norm, out);
    for (std::int64_t p = 0; p < x.count; ++p) {
      for (std::int64_t i = 0; i < width_ * panel_tokens_; ++i) x.panel(p)[i] += out.panel(p)[i];
    }
  }

  /// The activation of the layer's output, whose first `width` features are packed.
  PackedPanels activated_linear(const PackedLinear& layer, const PackedPanels& in,
                                std::int64_t width) const {
    const std::int64_t num_rows = weights_.is_gated() ? layer.rows / 2 : layer.rows;
    const std::int64_t panel_words = num_rows * panel_tokens_ / format_.elements_per_word;
    const PackedPanels out = {workspace_.middle.words.at_least(in.count * panel_words),
                              workspace_.middle.scales.at_least(in.count * panel_tokens_), in.count,
                              panel_words, panel_tokens_};
    if (format_.activates_to_words) {
      // Words of rows that fill the last tile are written too, and never read.
      multiply(layer, weights_.activation, in, out.words, panel_words);
      return out;
    }
    const Panels rows = panels(workspace_.middle_rows, in.count, num_rows);
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

  /// Packed panels of `width` features in `buffer`.
  PackedPanels packed_panels(PackedBuffer& buffer, const PanelFormat& format, std::int64_t width,
                             std::int64_t count) const {
    const std::int64_t panel_words = divide_up(width, format.elements_per_word) * panel_tokens_;
    return {buffer.words.at_least(count * panel_words + kSlack),
            buffer.scales.at_least(count * panel_tokens_), count, panel_words, panel_tokens_};
  }

  PackedPanels pack(const PanelFormat& format, const Panels& x, std::int64_t width,
                    PackedBuffer& buffer) const {
    const PackedPanels packed = packed_panels(buffer, format, width, x.count);
    for (std::int64_t p = 0; p < x.count; ++p) {
      format.to_words(x.panel(p), x.row_stride, width, packed.panel(p), packed.panel_scales(p));
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

  /// Panel p of the output layer, with the targets of its tokens, which are `places`.
  LinearPanel begin_scoring(const TokenTargets& targets, const std::int64_t* places,
                            std::int64_t num_counted, const PackedPanels& hidden,
                            std::int64_t p) const {
    float* fields = workspace_.fields.at_least(hidden.count * kNumTokenFields * panel_tokens_);
    TargetLogit* logits = workspace_.targets.at_least(hidden.count * (panel_tokens_ + 1));
    fields += p * kNumTokenFields * panel_tokens_;
    logits += p * (panel_tokens_ + 1);
    const std::int64_t first = p * panel_tokens_;
    const std::int64_t count = std::min(panel_tokens_, num_counted - first);
    for (std::int64_t i = 0; i < count; ++i) logits[i] = {targets.targets[places[first + i]], i};
    LinearPanel panel = begin_panel(*model_.head_kernel_, hidden.panel(p), hidden.panel_scales(p),
                                    fields, logits, count);
    panel.softcap = weights_.head_softcap;
    return panel;
  }

  const Transformer& model_;
  const TransformerWeights& weights_;
  const PanelMath& math_;
  const PanelFormat& format_;
  std::int64_t panel_tokens_;
  std::int64_t width_;
  Workspace& workspace_;
  PackedTokens source_;
  PackedTokens target_;
  std::int64_t longest_;                                // tokens of the longest sequence
  std::int64_t num_shared_ = 0;                         // tokens of the prefix, sequence 0
  const float* rotary_tables_[2] = {nullptr, nullptr};  // whose rows the workspace holds
};

void Transformer::score(const PackedTokens& source, const std::int64_t* inputs,
                        const TokenTargets& targets, SequenceResults& results) const {
  const PackedTokens target = {inputs, targets.num_tokens, targets.cu_seqlens,
                               targets.num_sequences};
  if (weights_.is_causal() && source.num_tokens > 0) {
    throw std::invalid_argument("a causal model reads no source; expected it before the targets");
  }
  Pass(*this, source, target).run(targets, results);
}

}  // namespace pycat
