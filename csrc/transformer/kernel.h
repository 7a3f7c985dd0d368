#pragma once

// What the compute loops of one instruction set offer to the forward pass. This file holds plain
// data only, for the reason that cross_entropy/kernel.h gives.
//
// Hidden states lie in panels of `panel_tokens` tokens, feature after feature: feature f of lane i
// is at [f * panel_tokens + i]. Every lane is a token. So norms, activations and residuals are
// plain loops over lanes, and a product writes its rows as the next product reads them.

#include <cstdint>

namespace pycat {

/// What is done with a product's rows while they are in registers. Gated activations take rows in
/// pairs: row 2 i + 1, times the activation of row 2 i, becomes row i.
enum class Epilogue {
  kStore,
  kAdd,
  kRelu,
  kSilu,
  kGelu,
  kGeluTanh,
  kGatedSilu,
  kGatedGeluTanh,
};
constexpr int kNumEpilogues = 8;

/// Rows of a linear layer, in tiles, times a panel of tokens.
struct PanelProduct {
  const std::uint32_t* tiles;
  std::int64_t num_tiles;
  std::int64_t row_words;
  std::int64_t first_row;      // of the first tile
  const std::uint32_t* words;  // (row_words, panel_tokens)
  const float* scales;         // (panel_tokens,) where the format has scales
  void* out;                   // (rows, panel_tokens) float32, or words if activations write words
};

/// Consecutive rows (features) of consecutive panels.
struct PanelRows {
  const float* panels;
  std::int64_t panel_floats;  // from one panel to the next
  std::int64_t first_row;
};

/// One attention head of one sentence: softmax(scale * queries keys) values. A causal query sees
/// the keys up to its own place. The keys of a shared prefix come before the sentence's own, and
/// its queries after them.
struct AttentionHead {
  PanelRows queries;
  PanelRows keys;
  PanelRows values;
  std::int64_t first_query;  // the token's place in the panels
  std::int64_t num_queries;
  std::int64_t num_shared;  // keys of the prefix, which begin at place 0 of the panels
  std::int64_t first_key;   // the token's place in the panels
  std::int64_t num_keys;
  std::int64_t width;  // rows of queries, keys and values
  float scale;
  bool causal;
  std::int64_t window;    // last keys that a causal query sees, its own among them; 0 for all
  float softcap;          // c of c tanh(score / c); 0 for none
  const float* relative;  // [i - j] is added to the score of query i and key j; null for none
  float* out;             // panels whose rows are panel_tokens + lanes apart
  std::int64_t out_panel_floats;
  std::int64_t out_row;  // the first row written
  float* scratch;        // attention_scratch() floats
};

/// Loops over float32 panels.
struct PanelMath {
  std::int64_t panel_tokens;
  std::int64_t lanes;  // of a vector
  /// out = (x - mean) / sqrt(variance + epsilon) * weight + bias, for each token of a panel.
  /// Without `bias`, out = x / sqrt(mean of squares + epsilon) * weight. `out` may be `x`.
  void (*normalize)(const float* x, const float* weight, const float* bias, std::int64_t width,
                    float epsilon, float* out);
  /// Rotates features f and f + half of each token of a panel by angles, whose cosines (half,
  /// panel_tokens) and then sines are in `table`.
  void (*rotate)(float* rows, const float* table, std::int64_t half);
  void (*attend)(const AttentionHead& head);
};

/// How a product reads its two sides. A tile begins with `header_words` words per row: the bias,
/// and for whole numbers also the row's scale and what the tokens' offset takes from its sums.
struct PanelFormat {
  std::int64_t tile_rows;
  std::int64_t elements_per_word;
  std::int64_t header_words;
  bool activates_to_words;  // whether activations write words, otherwise float32 rows
  /// Indexed by Epilogue.
  void (*multiply[kNumEpilogues])(const PanelProduct& product);
  /// Converts `width` float32 rows, `row_stride` apart, to words, and to scales where the format
  /// has scales.
  void (*to_words)(const float* rows, std::int64_t row_stride, std::int64_t width,
                   std::uint32_t* words, float* scales);
  /// Converts a row of a weight to words; for whole numbers also to the other words of its header.
  void (*pack_row)(const float* row, std::int64_t width, std::uint32_t* words, float* scale,
                   std::uint32_t* offset);
};

/// Floats of scratch memory that one call of `attend` needs.
inline std::int64_t attention_scratch(std::int64_t width, std::int64_t num_queries,
                                      std::int64_t num_keys) {
  constexpr std::int64_t kSlack =
      64;  // rounds up to whole blocks of lanes, and holds what copies write past them
  return width * (num_queries + 2 * num_keys + 3 * kSlack) + (num_keys + kSlack) * kSlack;
}

extern const PanelMath kPortableMath;
extern const PanelFormat kPortableFloat32;
#ifdef PYCAT_X86
extern const PanelMath kAvx2Math;
extern const PanelFormat kAvx2Float32;
extern const PanelFormat kAvx2Int8;
extern const PanelFormat kAvxVnniInt8;
extern const PanelMath kAvx512Math;
extern const PanelFormat kAvx512Float32;
extern const PanelFormat kAvx512Int8;
extern const PanelFormat kAvx512BFloat16;
extern const PanelFormat kAvx512VnniInt8;
#endif
#ifdef PYCAT_ARM64
extern const PanelMath kNeonMath;
extern const PanelFormat kNeonFloat32;
extern const PanelFormat kNeonDotInt8;
extern const PanelFormat kNeonBFloat16;
extern const PanelFormat kNeonI8mmInt8;
#endif

}  // namespace pycat
