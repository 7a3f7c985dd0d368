#pragma once

// Panels of tokens pass over a weight, a chunk of its tiles at a time.

#include <algorithm>
#include <cstdint>

#include "base/int_math.h"
#include "cross_entropy/kernel.h"

namespace pycat {

/// Bytes of a chunk that stays in the L2 cache while all panels of a block pass over it. The size
/// of a chunk fixes where sums are cut, so it must depend on the width alone.
constexpr std::int64_t kChunkBytes = 192 << 10;

struct ByteRange {
  const char* begin;
  std::int64_t num_bytes;
};

/// Fetches part `part` of `num_parts` of `range` into the L2 cache.
inline void prefetch_part(ByteRange range, std::int64_t part, std::int64_t num_parts) {
  constexpr std::int64_t kCacheLine = 64;
  const std::int64_t part_bytes = divide_up(range.num_bytes, num_parts);
  const std::int64_t end = std::min(range.num_bytes, part_bytes * (part + 1));
  for (std::int64_t i = part_bytes * part; i < end; i += kCacheLine) {
    __builtin_prefetch(range.begin + i, 0, 2);
  }
}

/// Calls multiply(tiles, first, count, p) for each chunk of tiles [first, first + count) and each
/// panel p. While a chunk is multiplied, the next one is fetched: memory would otherwise be waited
/// for between chunks.
///
/// `weight.read_tiles(first, count)` returns the words of tiles, and `weight.bytes_of(first,
/// count)` the memory that they are read from.
template <class Weight, class Multiply>
void for_each_chunk(const Weight& weight, std::int64_t num_tiles, std::int64_t chunk_tiles,
                    std::int64_t num_panels, const Multiply& multiply) {
  for (std::int64_t first = 0; first < num_tiles; first += chunk_tiles) {
    const std::int64_t count = std::min(chunk_tiles, num_tiles - first);
    const std::int64_t next = first + count;
    const std::int64_t next_count = std::min(chunk_tiles, num_tiles - next);
    const std::uint32_t* tiles = weight.read_tiles(first, count);
    const ByteRange next_bytes =
        next_count > 0 ? weight.bytes_of(next, next_count) : ByteRange{nullptr, 0};
    for (std::int64_t p = 0; p < num_panels; ++p) {
      prefetch_part(next_bytes, p, num_panels);
      multiply(tiles, first, count, p);
    }
  }
}

/// A panel before the first chunk: resets its `fields`, and sorts its `num_targets` target logits.
/// `targets` has room for one more, which marks the end.
LinearPanel begin_panel(const LinearKernel& kernel, const std::uint32_t* words, const float* scales,
                        float* fields, TargetLogit* targets, std::int64_t num_targets);

}  // namespace pycat
