#pragma once

#include <cstdint>
#include <vector>

#include "cross_entropy/kernel.h"
#include "cross_entropy/sequence_sums.h"
#include "simd/cpu_isa.h"
#include "transformer/kernel.h"
#include "transformer/packed_linear.h"

namespace pycat {

enum class Precision { kFloat32, kBFloat16, kInt8 };

/// Weight and bias of a norm, both (D,). Without a bias it is an RMS norm, which takes no mean off.
/// The weight is null where the model has no such norm.
struct NormWeights {
  const float* weight;
  const float* bias;
};

/// Q query features are those of all heads, Q = num_heads * head_width; KV key features are those
/// of num_kv_heads.
struct AttentionWeights {
  LinearWeights query;      // (Q, D); in self-attention queries, keys and values (Q + 2 KV, D)
  LinearWeights key_value;  // (2 KV, D) in cross-attention, unused in self-attention
  LinearWeights output;     // (D, Q)
  NormWeights norm;
  // In self-attention only. Each is null, or 0, where the model has none.
  NormWeights output_norm;  // of the output, before it is added to the residual
  NormWeights query_norm;   // (head_width,), of each head
  NormWeights key_norm;     // (head_width,), of each head
  const float* rotary;      // (num_positions, head_width): cosines of a position, then sines
  const float* relative;    // (num_heads, 2 num_positions - 1): added to the score of query i and
                            // key j at [i - j + num_positions - 1]
  std::int64_t window;      // last keys that a query sees
};

struct FeedForwardWeights {
  LinearWeights ff1;  // (F, D); (2 F, D) of gated activations: gate and value in turn
  LinearWeights ff2;  // (D, F)
  NormWeights norm;
  NormWeights output_norm;  // as in attention
};

struct LayerWeights {
  AttentionWeights self;
  AttentionWeights cross;  // decoder layers of a model with an encoder only
  FeedForwardWeights feed_forward;
};

/// What turns the tokens of one side into hidden states.
struct EmbeddingWeights {
  const float* tokens;  // (vocab_size, D)
  std::int64_t vocab_size;
  const float* positions;  // (num_positions, D), null where none are added
  std::int64_t num_positions;
  std::int64_t uncounted_token;  // takes no position and gets none; negative: there is none
  NormWeights norm;
};

/// A Transformer: encoder and decoder, or a causal model, which is a decoder alone. Norms come
/// before its layers (`norm_first`) or after them.
struct TransformerWeights {
  std::int64_t d_model;
  std::int64_t num_heads;
  std::int64_t num_kv_heads;  // each serves num_heads / num_kv_heads heads in turn
  std::int64_t head_width;
  float attention_scale;
  float attention_softcap;  // c of c tanh(score / c); 0 for none
  bool norm_first;
  Epilogue activation;
  float epsilon;
  float embedding_scale;
  EmbeddingWeights source;  // without tokens in a causal model
  EmbeddingWeights target;
  std::vector<LayerWeights> encoder;
  std::vector<LayerWeights> decoder;
  NormWeights encoder_norm;
  NormWeights decoder_norm;
  LinearWeights head;  // (V, D)
  float head_scale;    // factor of the last hidden states
  float head_softcap;  // c of c tanh(logit / c); 0 for none

  bool is_causal() const { return source.tokens == nullptr; }
  bool is_gated() const {
    return activation == Epilogue::kGatedSilu || activation == Epilogue::kGatedGeluTanh;
  }
  std::int64_t query_width() const { return num_heads * head_width; }
  std::int64_t key_width() const { return num_kv_heads * head_width; }
};

/// The sequences of one side, one after the other.
struct PackedTokens {
  const std::int64_t* tokens;  // (T,)
  std::int64_t num_tokens;
  const std::int32_t* cu_seqlens;  // (B + 1,), from 0 to T
  std::int64_t num_sequences;
};

/// The forward pass of one checkpoint on packed tokens, from token ids to the statistics of the
/// targets. The constructor packs the weights of linear layers. Embeddings, positions and norms are
/// not copied: they must outlive this object, and so must the output layer of Precision::kInt8.
/// Calls of score() may run at the same time; each runs on the calling thread, and keeps that
/// thread's memory for the next call.
class Transformer {
 public:
  /// Packs on `num_threads`. Throws std::invalid_argument for sizes that are not supported, and for
  /// a precision that the instruction set lacks.
  Transformer(const TransformerWeights& weights, Precision precision, CpuIsa isa,
              std::int64_t num_threads);

  /// Statistics of `targets` (T,), each of which the decoder predicts at the same place of `inputs`
  /// (T,). A causal model has no source: each of its sequences is empty. Throws
  /// std::invalid_argument if a token is outside the vocabulary or a sequence has more tokens than
  /// the model has positions.
  void score(const PackedTokens& source, const std::int64_t* inputs, const TokenTargets& targets,
             SequenceResults& results) const;

  std::int64_t vocab_size() const { return weights_.head.rows; }

 private:
  struct Attention {
    PackedLinear query;
    PackedLinear key_value;
    PackedLinear output;
  };
  struct Layer {
    Attention self;
    Attention cross;
    PackedLinear ff1;
    PackedLinear ff2;
  };
  class Pass;  // forward_pass.cpp

  Layer add_layer(const LayerWeights& weights, LinearPacker& packer) const;

  TransformerWeights weights_;
  const PanelMath* math_;
  const PanelFormat* format_;
  const PanelFormat* head_format_;
  const LinearKernel* head_kernel_;
  bool exact_targets_;  // the targets' logits are computed again, in float32
  std::vector<Layer> encoder_;
  std::vector<Layer> decoder_;
  PackedLinear head_;
};

}  // namespace pycat
