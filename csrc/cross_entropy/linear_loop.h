#pragma once

// Cross-entropy of hidden states times weight, written once over a vector type: logits are used in
// the registers they were computed in. The source of each instruction set includes this file after
// it defines what simd/tile_product.h asks for and
//   load(const float*), store(float*, Floats)
//   multiply_add(a, b, c)            a * b + c
//   max(a, b)                        the larger, b where either is NaN
//   any_greater(a, b)                whether a > b in any lane
//   select_greater(a, b, x, y)       x where a > b, y elsewhere
//   exponential(d)                   e^d for d below 80, 0 far below, NaN for NaN
//
// A lane holds one token (linear_loop.h) or one column of a token's logits (logits_loop.h). Lanes
// never affect each other, so a token's results do not depend on the tokens computed beside it.

#include <cstdint>

#include "cross_entropy/kernel.h"
#include "simd/soft_cap.h"
#include "simd/tile_product.h"

namespace pycat {
namespace {

constexpr float kInfinity = __builtin_inff();
// A lane's reference is raised only when a logit exceeds it by this margin: terms up to e^10 keep
// float32 sums exact enough (the exponential's rounding error grows with its argument), and almost
// no tile has to rescale.
constexpr float kReferenceMargin = 10.0F;

/// Sums over a part of the vocabulary. They are added to a token's fields with compensation, so
/// that a large sum does not swallow a long tail of small terms.
template <int C>
struct PartialSums {
  Floats reference[C];
  Floats max_logit[C];
  Floats sum_exp[C];
  Floats sum_exp_sq[C];
  Floats sum_exp_z[C];
};

/// Adds `term` to a sum by Kahan's method.
PYCAT_INLINE void add_compensated(float* sum_at, float* error_at, Floats term) {
  const Floats sum = load(sum_at);
  const Floats corrected = term - load(error_at);
  const Floats total = sum + corrected;
  store(error_at, (total - sum) - corrected);
  store(sum_at, total);
}

template <int C>
PYCAT_INLINE void start_partial_sums(const float* fields, PartialSums<C>& partial) {
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    partial.reference[c] = load(fields + (kReference * C + c) * kLanes);
    partial.max_logit[c] = load(fields + (kMaxLogit * C + c) * kLanes);
    partial.sum_exp[c] = partial.sum_exp_sq[c] = partial.sum_exp_z[c] = broadcast(0.0F);
  }
}

template <bool kAll, int C>
PYCAT_INLINE void flush_partial_sums(const PartialSums<C>& partial, float* fields) {
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    const auto at = [&](TokenField field) { return fields + (field * C + c) * kLanes; };
    store(at(kReference), partial.reference[c]);
    store(at(kMaxLogit), partial.max_logit[c]);
    add_compensated(at(kSumExp), at(kSumExpError), partial.sum_exp[c]);
    if (kAll) {
      add_compensated(at(kSumExpSq), at(kSumExpSqError), partial.sum_exp_sq[c]);
      add_compensated(at(kSumExpZ), at(kSumExpZError), partial.sum_exp_z[c]);
    }
  }
}

/// Raises the reference of the lanes whose `max_logits` exceed it by the margin, and rescales their
/// sums. Other lanes keep every bit.
template <int C>
__attribute__((noinline)) void raise_references(const Floats (&max_logits)[C],
                                                PartialSums<C>& partial, float* fields) {
  for (int c = 0; c < C; ++c) {
    const auto at = [&](TokenField field) { return fields + (field * C + c) * kLanes; };
    const Floats old = partial.reference[c];
    const Floats limit = old + broadcast(kReferenceMargin);
    partial.reference[c] = select_greater(max_logits[c], limit, max_logits[c], old);
    // Bounded below: the first reference is -FLT_MAX, and 0 times -inf would be NaN.
    const Floats shift = max(broadcast(-1e30F), old - partial.reference[c]);
    const Floats scale = select_greater(max_logits[c], limit, exponential(shift), broadcast(1.0F));
    const Floats shift_or_none = select_greater(max_logits[c], limit, shift, broadcast(0.0F));
    partial.sum_exp_z[c] =
        scale * multiply_add(shift_or_none, partial.sum_exp[c], partial.sum_exp_z[c]);
    partial.sum_exp[c] = scale * partial.sum_exp[c];
    partial.sum_exp_sq[c] = scale * scale * partial.sum_exp_sq[c];
    store(at(kSumExpZ), scale * multiply_add(shift_or_none, load(at(kSumExp)), load(at(kSumExpZ))));
    store(at(kSumExpZError), scale * load(at(kSumExpZError)));
    store(at(kSumExp), scale * load(at(kSumExp)));
    store(at(kSumExpError), scale * load(at(kSumExpError)));
    store(at(kSumExpSq), scale * scale * load(at(kSumExpSq)));
    store(at(kSumExpSqError), scale * scale * load(at(kSumExpSqError)));
  }
}

/// Adds R logits `z` of each lane of C lane groups.
template <bool kAll, int R, int C>
PYCAT_INLINE void add_logits(const Floats (&z)[R][C], PartialSums<C>& partial, float* fields) {
  Floats max_logits[C];
  bool rises = false;
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    max_logits[c] = z[0][c];
#pragma GCC unroll 16
    for (int r = 1; r < R; ++r) max_logits[c] = max(max_logits[c], z[r][c]);
    partial.max_logit[c] = max(max_logits[c], partial.max_logit[c]);
    rises |= any_greater(max_logits[c], partial.reference[c] + broadcast(kReferenceMargin));
  }
  if (__builtin_expect(rises, 0)) raise_references(max_logits, partial, fields);
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    // Two chains of additions, which begin with the first two rows: the terms of a tile are added
    // to each other before they are added to the partial sums.
    static_assert(R >= 2, "a tile begins both chains");
    Floats sum_exp[2];
    Floats sum_exp_sq[2];
    Floats sum_exp_z[2];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Floats d = z[r][c] - partial.reference[c];
      const Floats e = exponential(d);
      sum_exp[r % 2] = r < 2 ? e : sum_exp[r % 2] + e;
      if (kAll) {
        sum_exp_sq[r % 2] = r < 2 ? e * e : multiply_add(e, e, sum_exp_sq[r % 2]);
        // Bounded below: for z = -inf, e d is then 0 instead of NaN.
        const Floats bounded = max(broadcast(-200.0F), d);
        sum_exp_z[r % 2] = r < 2 ? e * bounded : multiply_add(e, bounded, sum_exp_z[r % 2]);
      }
    }
    partial.sum_exp[c] = partial.sum_exp[c] + (sum_exp[0] + sum_exp[1]);
    if (kAll) {
      partial.sum_exp_sq[c] = partial.sum_exp_sq[c] + (sum_exp_sq[0] + sum_exp_sq[1]);
      partial.sum_exp_z[c] = partial.sum_exp_z[c] + (sum_exp_z[0] + sum_exp_z[1]);
    }
  }
}

/// Caps `count` logits in memory.
__attribute__((noinline)) void cap_logits(float* logits, std::int64_t count, float cap) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    store(logits + i, soft_cap(load(logits + i), cap));
  }
}

/// LinearKernel::score for R rows and C lane groups; `kAll`: with the sums of all statistics.
/// `Tile` has kHeaderWords and multiply(), as FloatTile does.
template <bool kAll, class Tile, int R, int C>
void score_chunk(const LinearChunk& chunk, LinearPanel& panel) {
  constexpr std::int64_t kTokens = C * kLanes;
  PartialSums<C> partial;
  start_partial_sums(panel.fields, partial);
  const float softcap = panel.softcap;
  const std::uint32_t* tile = chunk.tiles;
  const std::int64_t end_row = chunk.first_row + chunk.num_tiles * R;
  for (std::int64_t row = chunk.first_row; row < end_row; row += R) {
    Floats z[R][C];
    Tile::template multiply<R, C>(tile, panel.words, panel.scales, chunk.row_words, z);
    tile += R * (Tile::kHeaderWords + chunk.row_words);
    if (__builtin_expect(panel.next->row < row + R || softcap > 0.0F, 0)) {
      float logits[R][kTokens];
      for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) store(logits[r] + c * kLanes, z[r][c]);
      }
      if (softcap > 0.0F) cap_logits(logits[0], R * kTokens, softcap);
      // The targets' logits go to their field, and out of the sums.
      for (; panel.next->row < row + R; ++panel.next) {
        float& logit = logits[panel.next->row - row][panel.next->lane];
        panel.fields[kTargetLogit * kTokens + panel.next->lane] = logit;
        logit = -kInfinity;
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) z[r][c] = load(logits[r] + c * kLanes);
      }
    }
    add_logits<kAll>(z, partial, panel.fields);
  }
  flush_partial_sums<kAll>(partial, panel.fields);
}

template <class Tile, int R, int C>
void score_linear(const LinearChunk& chunk, LinearPanel& panel, bool all_stats) {
  if (all_stats) {
    score_chunk<true, Tile, R, C>(chunk, panel);
  } else {
    score_chunk<false, Tile, R, C>(chunk, panel);
  }
}

}  // namespace
}  // namespace pycat
