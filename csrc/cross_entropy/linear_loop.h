#pragma once

// Hidden states times weight, written once over a vector type: logits are used in the registers
// they were made in. Included by the sources of one instruction set each, after they define what
// packed_tile.h asks for and
//   load(const float*), store(float*, Floats)
//   multiply_add(a, b, c)       a * b + c
//   larger(a, b)                b where either is NaN
//   any_greater(a, b), select_greater(a, b, x, y)   a > b: x where it is, y elsewhere
//   exponential(d)              e^d for d below 80, 0 far below, NaN of NaN
//
// Every lane is one token (a product) or one column of a token's logits, and nothing that happens
// in one lane changes another: so results do not depend on the company a token is computed in.

#include <cstdint>

#include "cross_entropy/kernel.h"
#include "simd/tile_product.h"

namespace pycat {
namespace {

constexpr float kInfinity = __builtin_inff();
// A lane's reference follows its maximum only when that passes it by so much: e^10 leaves float32
// sums exact enough (the exponent's rounding grows with it), and almost no tile has to rescale.
constexpr float kMargin = 10.0F;

/// The sums of a stretch of the vocabulary. Stretches are added up with compensation, so that a
/// large sum does not swallow a long tail of small terms.
template <int C>
struct Stretch {
  Floats reference[C];
  Floats max[C];
  Floats sum[C];
  Floats squares[C];
  Floats weighted[C];
};

PYCAT_INLINE void add_compensated(float* sum_at, float* error_at, Floats term) {
  const Floats sum = load(sum_at);
  const Floats corrected = term - load(error_at);
  const Floats total = sum + corrected;
  store(error_at, (total - sum) - corrected);
  store(sum_at, total);
}

template <int C>
PYCAT_INLINE void begin_stretch(const float* fields, Stretch<C>& stretch) {
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    stretch.reference[c] = load(fields + (kReference * C + c) * kLanes);
    stretch.max[c] = load(fields + (kMax * C + c) * kLanes);
    stretch.sum[c] = stretch.squares[c] = stretch.weighted[c] = spread(0.0F);
  }
}

template <bool kAll, int C>
PYCAT_INLINE void end_stretch(const Stretch<C>& stretch, float* fields) {
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    const auto at = [&](TokenField field) { return fields + (field * C + c) * kLanes; };
    store(at(kReference), stretch.reference[c]);
    store(at(kMax), stretch.max[c]);
    add_compensated(at(kSum), at(kSumError), stretch.sum[c]);
    if (kAll) {
      add_compensated(at(kSquares), at(kSquaresError), stretch.squares[c]);
      add_compensated(at(kWeighted), at(kWeightedError), stretch.weighted[c]);
    }
  }
}

/// Raises the reference of the lanes whose `top` passes it by the margin; others keep every bit.
template <int C>
__attribute__((noinline)) void raise_references(const Floats (&top)[C], Stretch<C>& stretch,
                                                float* fields) {
  for (int c = 0; c < C; ++c) {
    const auto at = [&](TokenField field) { return fields + (field * C + c) * kLanes; };
    const Floats old = stretch.reference[c];
    const Floats limit = old + spread(kMargin);
    stretch.reference[c] = select_greater(top[c], limit, top[c], old);
    // Bounded: the first reference is -FLT_MAX, and 0 times -inf would be NaN below.
    const Floats shift = larger(spread(-1e30F), old - stretch.reference[c]);
    const Floats scale = select_greater(top[c], limit, exponential(shift), spread(1.0F));
    const Floats shift_or_none = select_greater(top[c], limit, shift, spread(0.0F));
    stretch.weighted[c] = scale * multiply_add(shift_or_none, stretch.sum[c], stretch.weighted[c]);
    stretch.sum[c] = scale * stretch.sum[c];
    stretch.squares[c] = scale * scale * stretch.squares[c];
    store(at(kWeighted), scale * multiply_add(shift_or_none, load(at(kSum)), load(at(kWeighted))));
    store(at(kWeightedError), scale * load(at(kWeightedError)));
    store(at(kSum), scale * load(at(kSum)));
    store(at(kSumError), scale * load(at(kSumError)));
    store(at(kSquares), scale * scale * load(at(kSquares)));
    store(at(kSquaresError), scale * scale * load(at(kSquaresError)));
  }
}

/// Adds R logits of each lane of C groups.
template <bool kAll, int R, int C>
PYCAT_INLINE void add_logits(const Floats (&z)[R][C], Stretch<C>& stretch, float* fields) {
  Floats top[C];
  bool rises = false;
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    top[c] = z[0][c];
#pragma GCC unroll 16
    for (int r = 1; r < R; ++r) top[c] = larger(top[c], z[r][c]);
    stretch.max[c] = larger(top[c], stretch.max[c]);
    rises |= any_greater(top[c], stretch.reference[c] + spread(kMargin));
  }
  if (__builtin_expect(rises, 0)) raise_references(top, stretch, fields);
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    // Two chains of additions that begin with the first two rows: small terms meet small terms
    // before they meet the stretch's sum.
    static_assert(R >= 2, "a tile begins both chains");
    Floats sum[2];
    Floats squares[2];
    Floats weighted[2];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Floats d = z[r][c] - stretch.reference[c];
      const Floats e = exponential(d);
      sum[r % 2] = r < 2 ? e : sum[r % 2] + e;
      if (kAll) {
        squares[r % 2] = r < 2 ? e * e : multiply_add(e, e, squares[r % 2]);
        const Floats bounded =
            larger(spread(-200.0F), d);  // so that e d is 0, not NaN, for z = -inf
        weighted[r % 2] = r < 2 ? e * bounded : multiply_add(e, bounded, weighted[r % 2]);
      }
    }
    stretch.sum[c] = stretch.sum[c] + (sum[0] + sum[1]);
    if (kAll) {
      stretch.squares[c] = stretch.squares[c] + (squares[0] + squares[1]);
      stretch.weighted[c] = stretch.weighted[c] + (weighted[0] + weighted[1]);
    }
  }
}

template <bool kAll, class Dot, int R, int C>
void score_chunk(const LinearChunk& chunk, LinearPanel& panel) {
  constexpr std::int64_t kTokens = C * kLanes;
  Stretch<C> stretch;
  begin_stretch(panel.fields, stretch);
  const std::uint32_t* tile = chunk.tiles;
  const std::int64_t end_row = chunk.first_row + chunk.num_tiles * R;
  for (std::int64_t row = chunk.first_row; row < end_row; row += R) {
    Floats z[R][C];
    multiply_tile<Dot>(tile, panel.units, chunk.num_units, z);
    tile += R * (1 + chunk.num_units);
    if (__builtin_expect(panel.next->row < row + R, 0)) {
      float kept[R][kTokens];
      for (int r = 0; r < R; ++r) {
        for (int c = 0; c < C; ++c) store(kept[r] + c * kLanes, z[r][c]);
      }
      for (; panel.next->row < row + R; ++panel.next) {
        float& logit = kept[panel.next->row - row][panel.next->lane];
        panel.fields[kTarget * kTokens + panel.next->lane] = logit;
        logit = -kInfinity;
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) z[r][c] = load(kept[r] + c * kLanes);
      }
    }
    add_logits<kAll>(z, stretch, panel.fields);
  }
  end_stretch<kAll>(stretch, panel.fields);
}

template <class Dot, int R, int C>
void score_linear(const LinearChunk& chunk, LinearPanel& panel, bool all_stats) {
  if (all_stats) {
    score_chunk<true, Dot, R, C>(chunk, panel);
  } else {
    score_chunk<false, Dot, R, C>(chunk, panel);
  }
}

}  // namespace
}  // namespace pycat
