#pragma once

// Cross-entropy of logits in memory: one token at a time, with its logits side by side in the
// lanes. The source of each instruction set includes this file after it defines what linear_loop.h
// asks for and, for each FloatType, FromFloat32, FromBFloat16 and FromFloat16 with
//   Element                          how a logit is stored
//   load(const Element*)             kLanes logits as Floats
//   kMinusInfinity                   -inf as an Element

#include <cstdint>

#include "cross_entropy/linear_loop.h"

namespace pycat {
namespace {

constexpr int kBlockVectors = 8;     // enough independent chains to hide exponential()'s latency
constexpr int kBlocksPerFlush = 32;  // few enough that sums do not swallow small terms

/// Combines the lanes of one token into its fields: rescaled to the largest reference, and added in
/// lane order.
template <bool kAll>
PYCAT_INLINE void fold_lanes(const float* lanes, float target, float* fields) {
  const auto at = [&](TokenField field) { return lanes + field * kLanes; };
  float reference = at(kReference)[0];
  float max_logit = at(kMaxLogit)[0];
  for (int i = 1; i < kLanes; ++i) {
    reference = at(kReference)[i] > reference ? at(kReference)[i] : reference;
    max_logit = at(kMaxLogit)[i] > max_logit ? at(kMaxLogit)[i] : max_logit;
  }
  const Floats shift = max(broadcast(-1e30F), load(at(kReference)) - broadcast(reference));
  const Floats scale = exponential(shift);
  const Floats sum_exp = load(at(kSumExp)) - load(at(kSumExpError));
  float terms[3][kLanes];
  store(terms[0], scale * sum_exp);
  if (kAll) {
    store(terms[1], scale * scale * (load(at(kSumExpSq)) - load(at(kSumExpSqError))));
    const Floats sum_exp_z = load(at(kSumExpZ)) - load(at(kSumExpZError));
    store(terms[2], scale * multiply_add(shift, sum_exp, sum_exp_z));
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
  fields[kMaxLogit] = max_logit;
  fields[kTargetLogit] = target;
  fields[kSumExp] = static_cast<float>(totals[0]);
  fields[kSumExpSq] = static_cast<float>(totals[1]);
  fields[kSumExpZ] = static_cast<float>(totals[2]);
  fields[kSumExpError] = fields[kSumExpSqError] = fields[kSumExpZError] = 0.0F;
}

/// ScoreLogits for one type of logits; `kAll`: with the sums of all statistics.
template <bool kAll, class From>
void score_row(const typename From::Element* logits, std::int64_t vocab_size, std::int64_t target,
               float* fields) {
  constexpr std::int64_t kBlock = kBlockVectors * kLanes;
  float lanes[kNumTokenFields * kLanes] = {};
  store(lanes + kReference * kLanes, broadcast(-__FLT_MAX__));
  store(lanes + kMaxLogit * kLanes, broadcast(-kInfinity));
  PartialSums<1> partial;
  start_partial_sums(lanes, partial);
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
      float block_logits[kBlock];
      for (int r = 0; r < kBlockVectors; ++r) store(block_logits + r * kLanes, z[r][0]);
      target_logit = block_logits[target - first];
      block_logits[target - first] = -kInfinity;
#pragma GCC unroll 16
      for (int r = 0; r < kBlockVectors; ++r) z[r][0] = load(block_logits + r * kLanes);
    }
    add_logits<kAll>(z, partial, lanes);
    if (++blocks == kBlocksPerFlush) {
      flush_partial_sums<kAll>(partial, lanes);
      start_partial_sums(lanes, partial);
      blocks = 0;
    }
  }
  flush_partial_sums<kAll>(partial, lanes);
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
