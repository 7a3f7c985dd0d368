#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_array.h"
#include "cross_entropy/linear_panels.h"
#include "transformer/kernel.h"

namespace pycat {

/// A linear layer (rows, width) with its bias (rows), which may be null.
struct LinearWeights {
  const float* weight;
  const float* bias;
  std::int64_t rows;
  std::int64_t width;
};

/// The rows of a linear layer in tiles, as a PanelFormat describes them.
struct PackedLinear {
  AlignedArray<std::uint32_t> tiles;
  std::int64_t width = 0;
  std::int64_t rows = 0;  // those that fill the last tile included
  std::int64_t row_words = 0;
  std::int64_t num_tiles = 0;
  std::int64_t tile_words = 0;

  // As for_each_chunk() asks for.
  const std::uint32_t* read_tiles(std::int64_t first, std::int64_t /*count*/) const {
    return tiles.data() + first * tile_words;
  }
  ByteRange bytes_of(std::int64_t first, std::int64_t count) const {
    return {reinterpret_cast<const char*>(read_tiles(first, count)), 4 * count * tile_words};
  }
};

/// Packs linear layers, all of them together on several threads.
class LinearPacker {
 public:
  /// A layer whose tiles hold nothing before pack(). Rows that fill the last tile have weights 0
  /// and the bias `missing_bias`. The weights must last until pack(). Throws std::invalid_argument
  /// if the width is not a whole number of words.
  PackedLinear add(const LinearWeights& weights, const PanelFormat& format, float missing_bias);

  void pack(std::int64_t num_threads) const;

 private:
  /// Consecutive tiles of a layer.
  struct Piece {
    LinearWeights weights;
    const PanelFormat* format;
    float missing_bias;
    std::int64_t first_tile;
    std::int64_t num_tiles;
    std::uint32_t* tiles;
  };

  static void pack_piece(const Piece& piece, std::uint32_t* scratch);

  std::vector<Piece> pieces_;
  std::int64_t scratch_words_ = 0;  // that the largest tile needs
};

}  // namespace pycat
