#pragma once

#include <array>
#include <cstdint>

#include "cross_entropy/kernel.h"

namespace pycat {

/// 32-bit words that hold `width` elements: pairs of bfloat16, or one float32 each.
std::int64_t row_words(std::int64_t width, bool pairs);

/// Puts `out_rows` rows side by side: word u of row i goes to out[u * out_rows + i]. A null row is
/// all zeros, as is the missing second half of a pair. `out_rows` is a multiple of 4. Without
/// `pairs`, elements of any type become float32.
void interleave_rows(const char* const* rows, std::int64_t out_rows, std::int64_t width,
                     FloatType type, bool pairs, std::uint32_t* out);

/// How rows of `width` elements lie in tiles: each tile has `header_words` words per row, then the
/// rows' elements side by side.
struct TileShape {
  std::int64_t tile_rows;
  std::int64_t header_words;
  std::int64_t width;
  FloatType type;
  bool pairs;

  std::int64_t tile_words() const { return tile_rows * (header_words + row_words(width, pairs)); }
};

/// Writes tiles [first, first + count) to `out`. `read_row(row, i, header)` returns the elements of
/// a row, which is row i of its tile, or null beyond the last row; it writes header word h to
/// header[h * tile_rows].
template <class ReadRow>
void pack_tiles(const TileShape& shape, std::int64_t first, std::int64_t count,
                const ReadRow& read_row, std::uint32_t* out) {
  constexpr std::size_t kMaxTileRows = 16;
  std::array<const char*, kMaxTileRows> rows{};
  for (std::int64_t tile = first; tile < first + count; ++tile) {
    for (std::int64_t i = 0; i < shape.tile_rows; ++i) {
      rows[static_cast<std::size_t>(i)] = read_row(tile * shape.tile_rows + i, i, out + i);
    }
    interleave_rows(rows.data(), shape.tile_rows, shape.width, shape.type, shape.pairs,
                    out + shape.header_words * shape.tile_rows);
    out += shape.tile_words();
  }
}

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

/// Writes tiles [first, first + count) of `view` as LinearChunk describes them.
void pack_weight(const WeightView& view, const LinearKernel& kernel, std::int64_t first,
                 std::int64_t count, std::uint32_t* out);

}  // namespace pycat
