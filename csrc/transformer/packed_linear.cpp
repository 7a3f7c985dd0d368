#include "transformer/packed_linear.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "base/int_math.h"
#include "base/worker_threads.h"
#include "cross_entropy/packing.h"

namespace pycat {
namespace {

std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Floats of a weight that one thread packs at a time: few enough that no thread has much more to do
// than the others.
constexpr std::int64_t kPieceFloats = 1 << 18;

/// Converted rows consist of whole words, which are moved as float32 are.
TileShape tile_shape(const PanelFormat& format, std::int64_t width) {
  return {format.tile_rows, format.header_words, width / format.elements_per_word,
          FloatType::kFloat32, false};
}

}  // namespace

PackedLinear LinearPacker::add(const LinearWeights& weights, const PanelFormat& format,
                               float missing_bias) {
  if (weights.width % format.elements_per_word != 0) {
    throw std::invalid_argument("a linear layer reads " + std::to_string(weights.width) +
                                " features; expected a multiple of " +
                                std::to_string(format.elements_per_word));
  }
  const TileShape shape = tile_shape(format, weights.width);
  PackedLinear linear;
  linear.width = weights.width;
  linear.num_tiles = divide_up(weights.rows, format.tile_rows);
  linear.rows = linear.num_tiles * format.tile_rows;
  linear.row_words = shape.width;
  linear.tile_words = shape.tile_words();
  linear.tiles = AlignedArray<std::uint32_t>(linear.num_tiles * linear.tile_words);
  scratch_words_ = std::max(scratch_words_, format.tile_rows * linear.row_words);
  const std::int64_t piece_tiles =
      std::max<std::int64_t>(1, kPieceFloats / (format.tile_rows * weights.width));
  for (std::int64_t first = 0; first < linear.num_tiles; first += piece_tiles) {
    pieces_.push_back({weights, &format, missing_bias, first,
                       std::min(piece_tiles, linear.num_tiles - first),
                       linear.tiles.data() + first * linear.tile_words});
  }
  return linear;
}

void LinearPacker::pack(std::int64_t num_threads) const {
  const auto num_pieces = static_cast<std::int64_t>(pieces_.size());
  const std::int64_t num_workers = std::min(num_threads, num_pieces);
  // Memory is reserved before threads start, so that they cannot fail.
  const AlignedArray<std::uint32_t> scratch(num_workers * scratch_words_);
  run_tasks(num_pieces, num_workers, [&](std::int64_t piece, std::int64_t worker) {
    pack_piece(pieces_[static_cast<std::size_t>(piece)], scratch.data() + worker * scratch_words_);
  });
}

void LinearPacker::pack_piece(const Piece& piece, std::uint32_t* scratch) {
  const LinearWeights& weights = piece.weights;
  const PanelFormat& format = *piece.format;
  const TileShape shape = tile_shape(format, weights.width);
  const auto read_row = [&](std::int64_t row, std::int64_t i, std::uint32_t* header) {
    const bool exists = row < weights.rows;
    std::uint32_t* words = scratch + i * shape.width;
    float bias = piece.missing_bias;
    float scale = 0.0F;
    std::uint32_t offset = 0;
    if (exists) {
      format.pack_row(weights.weight + row * weights.width, weights.width, words, &scale, &offset);
      bias = weights.bias == nullptr ? 0.0F : weights.bias[row];
    }
    header[0] = bits_of(bias);
    if (format.header_words > 1) {
      header[format.tile_rows] = bits_of(scale);
      header[2 * format.tile_rows] = offset;
    }
    return exists ? reinterpret_cast<const char*>(words) : nullptr;
  };
  pack_tiles(shape, piece.first_tile, piece.num_tiles, read_row, piece.tiles);
}

}  // namespace pycat
