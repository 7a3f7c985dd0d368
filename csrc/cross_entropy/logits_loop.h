#pragma once

// The same sums from logits in memory, one token at a time, its logits spread over the lanes. After
// cross_entropy_loop.h's names, the including source also defines FromFloat32, FromBFloat16 and
// FromFloat16: Element, load(const Element*), kMinusInfinity.

#include <cstdint>

#include "cross_entropy/linear_loop.h"

namespace pycat {
namespace {

constexpr int kBlockVectors = 8;    // enough independent chains to hide exponential()'s latency
constexpr int kStretchBlocks = 32;  // as the margin: short enough not to swallow small terms

/// Folds the lanes of one token into its fields: all to the largest reference, added in lane order.
template <bool kAll>
PYCAT_INLINE void fold_lanes(const float* lanes, float target, float* fields) {
  const auto at = [&](TokenField field) { return lanes + field * kLanes; };
  float reference = at(kReference)[0];
  float max = at(kMax)[0];
  for (int i = 1; i < kLanes; ++i) {
    reference = at(kReference)[i] > reference ? at(kReference)[i] : reference;
    max = at(kMax)[i] > max ? at(kMax)[i] : max;
  }
  const Floats shift = larger(spread(-1e30F), load(at(kReference)) - spread(reference));
  const Floats scale = exponential(shift);
  const Floats sum = load(at(kSum)) - load(at(kSumError));
  float terms[3][kLanes];
  store(terms[0], scale * sum);
  if (kAll) {
    store(terms[1], scale * scale * (load(at(kSquares)) - load(at(kSquaresError))));
    const Floats weighted = load(at(kWeighted)) - load(at(kWeightedError));
    store(terms[2], scale * multiply_add(shift, sum, weighted));
  }
  double totals[3] = {0.0, 0.0, 0.0};
  for (int i = 0; i < kLanes; ++i) {
    totals[0] += static_cast<double>(terms[0][i]);
    if (kAll) {
      totals[1] += static_cast<double>(terms[1][i]);
      totals[2] += static_cast<double>(terms[2][i]);
    }
  }
  fields[kReference] = reference;
  fields[kMax] = max;
  fields[kTarget] = target;
  fields[kSum] = static_cast<float>(totals[0]);
  fields[kSquares] = static_cast<float>(totals[1]);
  fields[kWeighted] = static_cast<float>(totals[2]);
  fields[kSumError] = fields[kSquaresError] = fields[kWeightedError] = 0.0F;
}

template <bool kAll, class From>
void score_row(const typename From::Element* logits, std::int64_t vocab_size, std::int64_t target,
               float* fields) {
  constexpr std::int64_t kBlock = kBlockVectors * kLanes;
  float lanes[kNumTokenFields * kLanes] = {};
  store(lanes + kReference * kLanes, spread(-__FLT_MAX__));
  store(lanes + kMax * kLanes, spread(-kInfinity));
  Stretch<1> stretch;
  begin_stretch(lanes, stretch);
  float target_logit = -kInfinity;
  int blocks = 0;
  for (std::int64_t first = 0; first < vocab_size; first += kBlock) {
    const typename From::Element* block = logits + first;
    typename From::Element last[kBlock];
    if (vocab_size - first < kBlock) {
      for (std::int64_t i = 0; i < kBlock; ++i) {
        last[i] = first + i < vocab_size ? block[i] : From::kMinusInfinity;
      }
      block = last;
    }
    Floats z[kBlockVectors][1];
#pragma GCC unroll 16
    for (int r = 0; r < kBlockVectors; ++r) z[r][0] = From::load(block + r * kLanes);
    if (__builtin_expect(target - first < kBlock && target >= first, 0)) {
      float kept[kBlock];
      for (int r = 0; r < kBlockVectors; ++r) store(kept + r * kLanes, z[r][0]);
      target_logit = kept[target - first];
      kept[target - first] = -kInfinity;
#pragma GCC unroll 16
      for (int r = 0; r < kBlockVectors; ++r) z[r][0] = load(kept + r * kLanes);
    }
    add_logits<kAll>(z, stretch, lanes);
    if (++blocks == kStretchBlocks) {
      end_stretch<kAll>(stretch, lanes);
      begin_stretch(lanes, stretch);
      blocks = 0;
    }
  }
  end_stretch<kAll>(stretch, lanes);
  fold_lanes<kAll>(lanes, target_logit, fields);
}

template <class From>
void score_row_of(const void* logits, std::int64_t vocab_size, std::int64_t target, bool all_stats,
                  float* fields) {
  const auto* row = static_cast<const typename From::Element*>(logits);
  if (all_stats) {
    score_row<true, From>(row, vocab_size, target, fields);
  } else {
    score_row<false, From>(row, vocab_size, target, fields);
  }
}

void score_logits(const void* logits, FloatType type, std::int64_t vocab_size, std::int64_t target,
                  bool all_stats, float* fields) {
  switch (type) {
    case FloatType::kFloat32:
      return score_row_of<FromFloat32>(logits, vocab_size, target, all_stats, fields);
    case FloatType::kBFloat16:
      return score_row_of<FromBFloat16>(logits, vocab_size, target, all_stats, fields);
    case FloatType::kFloat16:
      return score_row_of<FromFloat16>(logits, vocab_size, target, all_stats, fields);
  }
}

}  // namespace
}  // namespace pycat
