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

/// A row of a weight as words, and what else a tile says of it.
struct PackedRow {
  std::vector<std::uint32_t> words;
  float scale = 0.0F;
  std::uint32_t offset = 0;
};

void quantize(const float* row, PackedRow& out) {
  // Loops over bits, which compilers turn into vector instructions.
  std::uint32_t most_bits = bits_of(1e-30F);
  const auto width = static_cast<std::int64_t>(4 * out.words.size());
  for (std::int64_t i = 0; i < width; ++i) {
    most_bits = std::max(most_bits, bits_of(row[i]) & 0x7FFFFFFFU);
  }
  const float most = float_of_bits(most_bits);
  const float inverse = 127.0F / most;
  // Adding 1.5 2^23 rounds to a whole number, which the last bits then are.
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
  out.scale = most / 127.0F;
  out.offset = 0U - 128U * sum;  // tokens are offset by 128
}

void to_row(const float* row, const PanelFormat& format, PackedRow& out) {
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
  const std::int64_t tile_rows = format.tile_rows;
  PackedLinear linear;
  linear.width = weights.width;
  linear.num_tiles = divide_up(weights.rows, tile_rows);
  linear.rows = linear.num_tiles * tile_rows;
  linear.row_words = weights.width / format.elements_per_word;
  linear.tile_words = tile_rows * (format.header_words + linear.row_words);
  linear.tiles = AlignedArray<std::uint32_t>(linear.num_tiles * linear.tile_words);
  std::vector<PackedRow> rows(static_cast<std::size_t>(tile_rows));
  std::vector<const char*> starts(rows.size());
  for (PackedRow& row : rows) row.words.resize(static_cast<std::size_t>(linear.row_words));
  for (std::int64_t first = 0; first < linear.rows; first += tile_rows) {
    std::uint32_t* out = linear.tiles.data() + first / tile_rows * linear.tile_words;
    for (std::int64_t i = 0; i < tile_rows; ++i) {
      PackedRow& row = rows[static_cast<std::size_t>(i)];
      const bool exists = first + i < weights.rows;
      if (exists) to_row(weights.weight + (first + i) * weights.width, format, row);
      starts[static_cast<std::size_t>(i)] =
          exists ? reinterpret_cast<const char*>(row.words.data()) : nullptr;
      float bias = missing_bias;
      if (exists) bias = weights.bias == nullptr ? 0.0F : weights.bias[first + i];
      out[i] = bits_of(bias);
      if (format.header_words > 1) {
        out[tile_rows + i] = exists ? bits_of(row.scale) : 0;
        out[2 * tile_rows + i] = exists ? row.offset : 0;
      }
    }
    interleave_rows(starts.data(), tile_rows, linear.row_words, FloatType::kFloat32, false,
                    out + format.header_words * tile_rows);
  }
  return linear;
}

}  // namespace pycat
