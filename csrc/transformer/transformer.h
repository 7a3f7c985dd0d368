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

/// Weight and bias of a layer norm, both (D,); null where the model has no such norm.
struct NormWeights {
  const float* weight;
  const float* bias;
};

struct AttentionWeights {
  LinearWeights query;      // (D, D); in self-attention queries, keys and values (3 D, D)
  LinearWeights key_value;  // (2 D, D) in cross-attention, unused in self-attention
  LinearWeights output;     // (D, D)
  NormWeights norm;
};

struct FeedForwardWeights {
  LinearWeights ff1;  // (F, D)
  LinearWeights ff2;  // (D, F)
  NormWeights norm;
};

struct LayerWeights {
  AttentionWeights self;
  AttentionWeights cross;  // decoder layers only
  FeedForwardWeights feed_forward;
};

/// What turns the tokens of one side into hidden states.
struct EmbeddingWeights {
  const float* tokens;  // (vocab_size, D)
  std::int64_t vocab_size;
  const float* positions;  // (num_positions, D)
  std::int64_t num_positions;
  std::int64_t uncounted_token;  // takes no position and gets none; negative: there is none
  NormWeights norm;
};

/// An encoder-decoder Transformer. Norms come before its layers (`norm_first`) or after them.
struct TransformerWeights {
  std::int64_t d_model;
  std::int64_t num_heads;
  bool norm_first;
  Epilogue activation;
  float epsilon;
  float embedding_scale;
  EmbeddingWeights source;
  EmbeddingWeights target;
  std::vector<LayerWeights> encoder;
  std::vector<LayerWeights> decoder;
  NormWeights encoder_norm;
  NormWeights decoder_norm;
  LinearWeights head;  // (V, D)
  float head_scale;    // factor of the last hidden states
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
/// not copied: they must outlive this object. Calls of score() may run at the same time; each runs
/// on the calling thread, and keeps that thread's memory for the next call.
class Transformer {
 public:
  /// Packs on `num_threads`. Throws std::invalid_argument for sizes that are not supported, and for
  /// a precision that the instruction set lacks.
  Transformer(const TransformerWeights& weights, Precision precision, CpuIsa isa,
              std::int64_t num_threads);

  /// Statistics of `targets` (T,), each of which the decoder predicts at the same place of `inputs`
  /// (T,). Throws std::invalid_argument if a token is outside the vocabulary or a sequence has more
  /// tokens than the model has positions.
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

  Layer add_layer(const LayerWeights& weights, bool is_decoder, LinearPacker& packer) const;

  TransformerWeights weights_;
  const PanelMath* math_;
  const PanelFormat* format_;
  const PanelFormat* head_format_;
  const LinearKernel* head_kernel_;
  std::vector<Layer> encoder_;
  std::vector<Layer> decoder_;
  PackedLinear head_;
};

}  // namespace pycat
