#include "transformer/packed_linear.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/int_math.h"
#include "cross_entropy/float_type.h"
#include "cross_entropy/packing.h"

namespace pycat {
namespace {

std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

std::uint32_t bfloat16_bits(float value) {
  const std::uint32_t bits = bits_of(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return (bits >> 16) | 0x40U;  // NaN stays NaN
  return (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
}

/// A row of a weight as words, with what the header of its tile says of it.
struct PackedRow {
  std::vector<std::uint32_t> words;
  float scale = 0.0F;        // int8 only
  std::uint32_t offset = 0;  // int8 only: what the tokens' offset adds to the row's products
};

/// Rounds a row to signed bytes, with the scale that maps its largest magnitude to 127.
void quantize(const float* row, PackedRow& out) {
  // Magnitudes are compared as bits: compilers turn that loop into vector instructions.
  std::uint32_t max_abs_bits = bits_of(1e-30F);
  const auto width = static_cast<std::int64_t>(4 * out.words.size());
  for (std::int64_t i = 0; i < width; ++i) {
    max_abs_bits = std::max(max_abs_bits, bits_of(row[i]) & 0x7FFFFFFFU);
  }
  const float max_abs = float_of_bits(max_abs_bits);
  const float inverse = 127.0F / max_abs;
  // Adding 1.5 2^23 rounds to a whole number, which then stands in the last bits.
  constexpr float kRound = 12582912.0F;
  std::uint32_t sum = 0;
  for (std::size_t u = 0; u < out.words.size(); ++u) {
    std::uint32_t word = 0;
    for (unsigned i = 0; i < 4; ++i) {
      const std::uint32_t value = bits_of(row[4 * u + i] * inverse + kRound) - bits_of(kRound);
      sum += value;
      word |= (value & 0xFFU) << (8 * i);
    }
    out.words[u] = word;
  }
  out.scale = max_abs / 127.0F;
  out.offset = 0U - 128U * sum;  // int8 tokens are stored with an offset of 128
}

void convert_row(const float* row, const PanelFormat& format, PackedRow& out) {
  if (format.elements_per_word == 1) {
    std::memcpy(out.words.data(), row, 4 * out.words.size());
  } else if (format.elements_per_word == 2) {
    for (std::size_t u = 0; u < out.words.size(); ++u) {
      out.words[u] = bfloat16_bits(row[2 * u]) | bfloat16_bits(row[2 * u + 1]) << 16;
    }
  } else {
    quantize(row, out);
  }
}

}  // namespace

PackedLinear pack_linear(const LinearWeights& weights, const PanelFormat& format,
                         float missing_bias) {
  if (weights.width % format.elements_per_word != 0) {
    throw std::invalid_argument("a linear layer reads " + std::to_string(weights.width) +
                                " features; expected a multiple of " +
                                std::to_string(format.elements_per_word));
  }
  PackedLinear linear;
  linear.width = weights.width;
  linear.num_tiles = divide_up(weights.rows, format.tile_rows);
  linear.rows = linear.num_tiles * format.tile_rows;
  linear.row_words = weights.width / format.elements_per_word;
  // Converted rows consist of whole words, which are moved as float32 are.
  const TileShape shape = {format.tile_rows, format.header_words, linear.row_words,
                           FloatType::kFloat32, false};
  linear.tile_words = shape.tile_words();
  linear.tiles = AlignedArray<std::uint32_t>(linear.num_tiles * linear.tile_words);
  std::vector<PackedRow> tile(static_cast<std::size_t>(format.tile_rows));
  for (PackedRow& row : tile) row.words.resize(static_cast<std::size_t>(linear.row_words));
  const auto read_row = [&](std::int64_t row, std::int64_t i, std::uint32_t* header) {
    PackedRow& packed = tile[static_cast<std::size_t>(i)];
    const bool exists = row < weights.rows;
    float bias = missing_bias;
    if (exists) {
      convert_row(weights.weight + row * weights.width, format, packed);
      bias = weights.bias == nullptr ? 0.0F : weights.bias[row];
    }
    header[0] = bits_of(bias);
    if (format.header_words > 1) {
      header[format.tile_rows] = exists ? bits_of(packed.scale) : 0;
      header[2 * format.tile_rows] = exists ? packed.offset : 0;
    }
    return exists ? reinterpret_cast<const char*>(packed.words.data()) : nullptr;
  };
  pack_tiles(shape, 0, linear.num_tiles, read_row, linear.tiles.data());
  return linear;
}

}  // namespace pycat
