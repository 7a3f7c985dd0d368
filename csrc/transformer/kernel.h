#pragma once

// What a compute body of one instruction set offers to the forward pass. As cross_entropy_kernel.h:
// plain data only.
//
// Activations lie in panels of `panel_tokens` tokens, feature after feature: feature f of lane i at
// [f * panel_tokens + i]. Every lane is a token, so that norms, activations and residuals are plain
// loops over lanes, and a product leaves its rows as the next one reads them.

#include <cstdint>

namespace pycat {

/// What becomes of a product's rows while they are in registers.
enum class Epilogue { kStore, kAdd, kRelu, kSilu, kGelu };

/// Rows of a linear layer times a panel.
struct PanelProduct {
  const std::uint32_t* tiles;
  std::int64_t num_tiles;
  std::int64_t row_words;
  std::int64_t first_row;
  const std::uint32_t* words;
  const float* scales;  // of the panel's tokens, where the format has them
  void* out;            // row 0: float32, or words where an activation leaves those
};

/// Features of some rows of consecutive panels.
struct PanelRows {
  const float* panels;
  std::int64_t panel_size;
  std::int64_t first_row;
};

/// One head of one sentence: softmax(scale * queries keys) values.
struct AttentionHead {
  PanelRows queries;
  PanelRows keys;
  PanelRows values;
  std::int64_t first_query;  // its lane, counted from the first panel's
  std::int64_t num_queries;
  std::int64_t first_key;
  std::int64_t num_keys;
  std::int64_t width;
  float scale;
  bool causal;
  float* out;  // rows first_row.. of panels whose rows are panel_tokens + lanes apart
  std::int64_t out_panel_size;
  std::int64_t out_row;
  float* scratch;  // attention_scratch() floats
};

/// Loops over float32 panels.
struct PanelMath {
  std::int64_t panel_tokens;
  std::int64_t lanes;
  /// out = (x - mean) / sqrt(variance + epsilon) * weight + bias; may be in place.
  void (*normalize)(const float* x, const float* weight, const float* bias, std::int64_t width,
                    float epsilon, float* out);
  void (*attend)(const AttentionHead& head);
};

/// How a product reads its two sides. A tile holds `header_words` words per row before its words:
/// the bias; for int8 also the row's scale and what the offset of its tokens adds.
struct PanelFormat {
  std::int64_t tile_rows;
  std::int64_t elements_per_word;  // 1: float32, 2: bfloat16, 4: int8
  std::int64_t header_words;
  bool activates_to_words;  // activations leave words; else float32 rows
  /// Indexed by Epilogue.
  void (*multiply[5])(const PanelProduct& product);
  /// float32 rows `row_stride` apart to words, and scales where the format has them.
  void (*to_words)(const float* rows, std::int64_t row_stride, std::int64_t width,
                   std::uint32_t* words, float* scales);
};

/// Floats that one call of `attend` needs.
inline std::int64_t attention_scratch(std::int64_t width, std::int64_t num_queries,
                                      std::int64_t num_keys) {
  constexpr std::int64_t kSlack = 64;  // whole blocks of lanes, and what copies overrun
  return width * (num_queries + 2 * num_keys + 3 * kSlack) + (num_keys + kSlack) * kSlack;
}

extern const PanelMath kPortableMath;
extern const PanelFormat kPortableFloat32;
#ifdef PYCAT_X86
extern const PanelMath kAvx2Math;
extern const PanelFormat kAvx2Float32;
extern const PanelMath kAvx512Math;
extern const PanelFormat kAvx512Float32;
extern const PanelFormat kAvx512BFloat16;
extern const PanelFormat kAvx512Int8;
#endif

}  // namespace pycat
