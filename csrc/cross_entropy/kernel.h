#pragma once

// What a compute body of one instruction set offers to the code that drives it. Plain data only:
// such a body must not share inline functions with code that runs on every machine.

#include <cstdint>

namespace pycat {

enum class FloatType { kFloat32, kBFloat16, kFloat16 };

/// What the pass over the vocabulary leaves of one token, float32 each. The target is kept apart,
/// so that nothing cancels where it is nearly certain; with e = exp(z - reference), over all other
/// logits z: kMax, kSum = sum of e, kSquares = sum of e², kWeighted = sum of e (z - reference).
/// A sum's error is what its rounding has added so far (Kahan): the sum itself is kSum - kSumError.
/// The last four sums are made for all statistics only.
enum TokenField {
  kReference,
  kMax,
  kTarget,
  kSum,
  kSumError,
  kSquares,
  kSquaresError,
  kWeighted,
  kWeightedError,
  kNumTokenFields
};

/// A logit to keep: that of vocabulary row `row` for token `lane` of a panel.
struct WantedLogit {
  std::int64_t row;
  std::int64_t lane;
};

/// Tokens whose hidden states lie side by side: unit u of token i at units[u * panel_tokens + i].
/// A unit is 32 bits along H: one float32 or a pair of bfloat16.
struct LinearPanel {
  const std::uint32_t* units;
  float* fields;            // [kNumTokenFields][panel_tokens]
  const WantedLogit* next;  // rising by row; the last row is beyond the vocabulary
};

/// Vocabulary rows in tiles of `tile_rows`: a tile is the float32 biases of its rows, then unit u
/// of row i at [(1 + u) * tile_rows + i]. Rows beyond the vocabulary have weights 0 and bias -inf.
struct LinearChunk {
  const std::uint32_t* tiles;
  std::int64_t num_tiles;
  std::int64_t num_units;
  std::int64_t first_row;
};

struct LinearKernel {
  std::int64_t tile_rows;
  std::int64_t panel_tokens;
  bool pairs;  // a unit is two bfloat16
  /// Adds a chunk of the vocabulary to a panel's fields; a new panel holds kReference = -FLT_MAX,
  /// kMax = -inf and zeros.
  void (*score)(const LinearChunk& chunk, LinearPanel& panel, bool all_stats);
};

/// One token's logits, `vocab_size` of them, into its fields.
using ScoreLogits = void (*)(const void* logits, FloatType type, std::int64_t vocab_size,
                             std::int64_t target, bool all_stats, float* fields);

struct CrossEntropyKernels {
  LinearKernel float32;
  LinearKernel bfloat16;  // the same as float32 where there is no instruction for pairs
  ScoreLogits score_logits;
};

extern const CrossEntropyKernels kPortableKernels;
#ifdef PYCAT_X86
extern const CrossEntropyKernels kAvx2Kernels;
extern const CrossEntropyKernels kAvx512Kernels;
extern const LinearKernel kAvx512Bf16Kernel;
#endif

}  // namespace pycat
