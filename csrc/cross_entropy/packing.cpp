#include "cross_entropy/packing.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "cross_entropy/float_type.h"
#ifdef __SSE2__
#include <xmmintrin.h>
#endif

namespace pycat {
namespace {

constexpr std::int64_t kBlockWords = 64;
using BlockRow = std::array<std::uint32_t, kBlockWords>;

/// Reads words [first, first + count) of a row, padded with zeros.
void read_words(const char* row, std::int64_t first, std::int64_t count, std::int64_t width,
                FloatType type, bool pairs, BlockRow& words) {
  words.fill(0);
  if (row == nullptr) return;
  const std::int64_t elements_per_word = pairs ? 2 : 1;
  const std::int64_t begin = first * elements_per_word;
  const std::int64_t num_elements = std::min(count * elements_per_word, width - begin);
  if (pairs || type == FloatType::kFloat32) {
    std::memcpy(words.data(), row + begin * size_of(type),
                static_cast<std::size_t>(num_elements * size_of(type)));
    return;
  }
  for (std::int64_t i = 0; i < num_elements; ++i) {
    const float value = element(row, type, begin + i);
    std::memcpy(&words[static_cast<std::size_t>(i)], &value, sizeof(value));
  }
}

/// Puts four rows of `count` words side by side: out[u * out_rows + r] = word u of rows[r].
void transpose(const std::array<const char*, 4>& rows, std::int64_t count, std::int64_t out_rows,
               std::uint32_t* out) {
  std::int64_t u = 0;
#ifdef __SSE2__
  // With scalar stores, packing would take a tenth of a call of 1,000 tokens.
  for (; u + 4 <= count; u += 4) {
    __m128 words[4];
    for (std::size_t r = 0; r < 4; ++r) std::memcpy(&words[r], rows[r] + 4 * u, sizeof(words[r]));
    _MM_TRANSPOSE4_PS(words[0], words[1], words[2], words[3]);
    for (std::int64_t i = 0; i < 4; ++i) {
      std::memcpy(out + (u + i) * out_rows, &words[i], sizeof(words[i]));
    }
  }
#endif
  for (; u < count; ++u) {
    for (std::size_t r = 0; r < 4; ++r) std::memcpy(out + u * out_rows + r, rows[r] + 4 * u, 4);
  }
}

}  // namespace

std::int64_t row_words(std::int64_t width, bool pairs) { return pairs ? (width + 1) / 2 : width; }

void interleave_rows(const char* const* rows, std::int64_t out_rows, std::int64_t width,
                     FloatType type, bool pairs, std::uint32_t* out) {
  const std::int64_t words = row_words(width, pairs);
  // Rows that consist of whole words are read in place.
  const bool words_in_place = type == FloatType::kFloat32 || (pairs && width % 2 == 0);
  std::array<BlockRow, 4> block;
  for (std::int64_t row = 0; row < out_rows; row += 4) {
    const bool all_present = rows[row] != nullptr && rows[row + 1] != nullptr &&
                             rows[row + 2] != nullptr && rows[row + 3] != nullptr;
    if (words_in_place && all_present) {
      transpose({rows[row], rows[row + 1], rows[row + 2], rows[row + 3]}, words, out_rows,
                out + row);
      continue;
    }
    for (std::int64_t first = 0; first < words; first += kBlockWords) {
      const std::int64_t count = std::min(kBlockWords, words - first);
      std::array<const char*, 4> starts;
      for (std::size_t r = 0; r < 4; ++r) {
        read_words(rows[static_cast<std::size_t>(row) + r], first, count, width, type, pairs,
                   block[r]);
        starts[r] = reinterpret_cast<const char*>(block[r].data());
      }
      transpose(starts, count, out_rows, out + first * out_rows + row);
    }
  }
}

std::int64_t tile_words(const LinearKernel& kernel, std::int64_t width) {
  return TileShape{kernel.tile_rows, 1, width, FloatType::kFloat32, kernel.pairs}.tile_words();
}

void pack_weight(const WeightView& view, const LinearKernel& kernel, std::int64_t first,
                 std::int64_t count, std::uint32_t* out) {
  const auto read_row = [&](std::int64_t row, std::int64_t, std::uint32_t* header) {
    const bool exists = row < view.vocab_size;
    float bias = exists ? 0.0F : -std::numeric_limits<float>::infinity();
    if (exists && view.bias != nullptr) bias = element(view.bias, view.bias_type, row);
    std::memcpy(header, &bias, sizeof(bias));
    return exists ? view.weight + row * view.width * size_of(view.type) : nullptr;
  };
  const TileShape shape = {kernel.tile_rows, 1, view.width, view.type, kernel.pairs};
  pack_tiles(shape, first, count, read_row, out);
}

}  // namespace pycat
