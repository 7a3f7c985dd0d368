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

/// A layer norm's weight and bias, both (width); null where there is no norm.
struct NormWeights {
  const float* weight;
  const float* bias;
};

struct AttentionWeights {
  LinearWeights query;      // for self-attention: queries, keys and values in one (3 D, D)
  LinearWeights key_value;  // keys and values of what is attended to (2 D, D); unused for self
  LinearWeights output;
  NormWeights norm;
};

struct FeedForwardWeights {
  LinearWeights up;
  LinearWeights down;
  NormWeights norm;
};

struct LayerWeights {
  AttentionWeights self;
  AttentionWeights cross;  // decoder layers only
  FeedForwardWeights feed_forward;
};

/// One end of the model that reads tokens.
struct EmbeddingWeights {
  const float* tokens;  // (vocab_size, D)
  std::int64_t vocab_size;
  const float* positions;  // (num_positions, D)
  std::int64_t num_positions;
  NormWeights norm;
};

/// An encoder-decoder Transformer. Sublayers are normed before (`norm_first`) or after.
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
  LinearWeights head;
  float head_scale;  // of the last hidden states
};

/// Sequences of one side one after the other.
struct PackedTokens {
  const std::int64_t* tokens;  // (T,)
  std::int64_t num_tokens;
  const std::int32_t* cu_seqlens;  // (B + 1,), from 0 to T
  std::int64_t num_sequences;
};

/// The forward pass of one checkpoint on packed tokens, from ids to the statistics of each target.
/// Weights are packed for the processor once; embeddings, positions, norms stay where they are and
/// must outlive this. Calls may run at the same time; each runs on its own thread, whose memory is
/// kept for the next call.
class Transformer {
 public:
  /// Throws std::invalid_argument for sizes it cannot do, or a precision the processor lacks.
  Transformer(const TransformerWeights& weights, Precision precision, CpuIsa isa);

  /// Statistics of `targets`, which the decoder predicts at each place of `inputs`.
  /// Throws std::invalid_argument if a token or a position is beyond the model's.
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
    PackedLinear up;
    PackedLinear down;
  };
  class Pass;

  Layer pack(const LayerWeights& weights, bool is_decoder) const;

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
