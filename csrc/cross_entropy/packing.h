#pragma once

#include <cstdint>

#include "cross_entropy/kernel.h"

namespace pycat {

/// 32-bit words that hold `width` elements: pairs of bfloat16, or float32 one by one.
std::int64_t row_words(std::int64_t width, bool pairs);

/// Puts `num_rows` rows side by side: word u of row i at out[u * out_rows + i], zero where a row is
/// null or a pair has no second half. `out_rows` is a multiple of 4. Without pairs, elements of any
/// type become float32.
void interleave_rows(const char* const* rows, std::int64_t out_rows, std::int64_t width,
                     FloatType type, bool pairs, std::uint32_t* out);

/// A weight (V, H) with its bias (V), which may be null.
struct WeightView {
  const char* weight;
  const char* bias;
  FloatType type;
  FloatType bias_type;
  std::int64_t vocab_size;
  std::int64_t width;
};

/// Words of a tile of `kernel`, as LinearChunk describes it.
std::int64_t tile_words(const LinearKernel& kernel, std::int64_t width);

/// Writes tiles [first, first + count) of `view`.
void pack_tiles(const WeightView& view, const LinearKernel& kernel, std::int64_t first,
                std::int64_t count, std::uint32_t* out);

}  // namespace pycat
