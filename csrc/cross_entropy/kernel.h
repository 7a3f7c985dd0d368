#pragma once

// What the compute loops of one instruction set offer to the code that drives them. This file holds
// plain data only: such loops must not share inline functions with code that runs on every machine.

#include <cstdint>

namespace pycat {

enum class FloatType { kFloat32, kBFloat16, kFloat16 };

/// Fields that the pass over the vocabulary leaves for each token, float32. The target's logit has
/// a field of its own and is left out of the sums, so that nothing cancels where the target is
/// nearly certain. Over all other logits z, with e = exp(z - reference):
///   kMaxLogit   max of z
///   kSumExp     sum of e
///   kSumExpSq   sum of e²                    only where all statistics are asked for
///   kSumExpZ    sum of e (z - reference)     only where all statistics are asked for
/// Each sum has the error that its rounding has added so far (Kahan): the sum of e is
/// kSumExp - kSumExpError.
enum TokenField {
  kReference,
  kMaxLogit,
  kTargetLogit,
  kSumExp,
  kSumExpError,
  kSumExpSq,
  kSumExpSqError,
  kSumExpZ,
  kSumExpZError,
  kNumTokenFields
};

/// Which logit is a target's: that of vocabulary row `row` for the token in lane `lane` of a panel.
struct TargetLogit {
  std::int64_t row;
  std::int64_t lane;
};

/// A panel of tokens with their hidden states side by side: word u of token i at
/// words[u * panel_tokens + i]. A word is 32 bits along H: one float32, or two or four smaller
/// numbers.
struct LinearPanel {
  const std::uint32_t* words;
  const float* scales;      // (panel_tokens,) where the words are whole numbers
  float* fields;            // (kNumTokenFields, panel_tokens)
  const TargetLogit* next;  // sorted by row; the last one's row is beyond the vocabulary
  float softcap;            // c of c tanh(logit / c); 0 for none
};

/// Rows of the vocabulary in tiles of `tile_rows`: a tile holds the float32 biases of its rows,
/// then word u of row i at [(1 + u) * tile_rows + i]. Rows beyond the vocabulary have weights 0 and
/// bias -inf. Rows of whole numbers have two words more behind the bias: see PanelFormat.
struct LinearChunk {
  const std::uint32_t* tiles;
  std::int64_t num_tiles;
  std::int64_t row_words;
  std::int64_t first_row;
};

struct LinearKernel {
  std::int64_t tile_rows;
  std::int64_t panel_tokens;
  bool pairs;  // whether a word is two bfloat16, otherwise one float32 or what packed it says
  /// Adds a chunk of the vocabulary to a panel's fields. A new panel holds kReference = -FLT_MAX,
  /// kMaxLogit = -inf and zeros.
  void (*score)(const LinearChunk& chunk, LinearPanel& panel, bool all_stats);
};

/// Writes the fields of one token from its logits (vocab_size).
using ScoreLogits = void (*)(const void* logits, FloatType type, std::int64_t vocab_size,
                             std::int64_t target, bool all_stats, float* fields);

struct CrossEntropyKernels {
  LinearKernel float32;
  LinearKernel bfloat16;  // float32's where the instruction set has no product of pairs
  ScoreLogits score_logits;
};

extern const CrossEntropyKernels kPortableKernels;
#ifdef PYCAT_X86
extern const CrossEntropyKernels kAvx2Kernels;
extern const CrossEntropyKernels kAvx512Kernels;
extern const LinearKernel kAvx512Bf16Kernel;
// Of hidden states and rows that the forward pass has rounded to bytes.
extern const LinearKernel kAvx2Int8Kernel;
extern const LinearKernel kAvxVnniInt8Kernel;
extern const LinearKernel kAvx512Int8Kernel;
extern const LinearKernel kAvx512VnniInt8Kernel;
#endif
#ifdef PYCAT_ARM64
extern const CrossEntropyKernels kNeonKernels;
extern const LinearKernel kNeonDotInt8Kernel;
// Of hidden states that the forward pass has laid out for these two.
extern const LinearKernel kNeonBf16Kernel;
extern const LinearKernel kNeonI8mmInt8Kernel;
#endif

}  // namespace pycat
