#include "corpus/pair_order.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>

#include "base/errors.h"
#include "base/hash.h"
#include "base/parallel.h"

namespace pycat {
namespace {

// Counters take 4 bytes each (8 from 2^32 pairs), 32 MB at most, of which sentences need a small
// part. Lengths that would need more are counted up to kMaxCountedLength; pairs with a longer side
// are sorted by comparing.
constexpr std::uint64_t kMaxCounters = 1 << 22;
constexpr std::uint64_t kMaxCountedLength = 2047;

constexpr std::uint64_t kMinPairsPerThread = 1 << 17;
constexpr std::uint64_t kBlock = 64;  // pairs whose places are prefetched before they are written

/// The length of the longest sequence of `side` in `num_pairs` pairs.
template <typename PairAt>
std::uint64_t longest(const IndexedFile& side, std::uint64_t num_pairs, const PairAt& pair_at) {
  return parallel_max(num_pairs, kMinPairsPerThread, [&](std::uint64_t begin, std::uint64_t end) {
    std::int32_t result = 0;
    for (std::uint64_t i = begin; i < end; ++i) {
      result = std::max(result, side.length(pair_at(i)));
    }
    return static_cast<std::uint64_t>(result);
  });
}

}  // namespace

PairOrder::PairOrder(const IndexedFile& src, const IndexedFile& tgt, const std::int64_t* ids,
                     std::size_t num_ids, const std::filesystem::path& scratch_folder)
    : src_(src.identity()),
      tgt_(tgt.identity()),
      size_(ids == nullptr ? src.num_sequences() : num_ids),
      wide_(src.num_sequences() > std::numeric_limits<std::uint32_t>::max()),
      order_(scratch_folder, size_ * (wide_ ? 8 : 4)) {
  require_pairs(src, tgt);
  src.require_verified();
  tgt.require_verified();
#ifdef MADV_HUGEPAGE
  // Pages of 2 MB, where the memory is anonymous: fewer page faults now, and fewer page walks
  // later.
  ::madvise(order_.data(), order_.size(), MADV_HUGEPAGE);
#endif
  const auto sort_pairs = [&](const auto& pair_at) {
    if (wide_) {
      sort<std::uint64_t>(src, tgt, pair_at);
    } else {
      sort<std::uint32_t>(src, tgt, pair_at);
    }
  };
  if (ids == nullptr) {
    sort_pairs([](std::uint64_t i) { return i; });
  } else {
    src.require_ids(ids, num_ids);
    Hash hash;
    for (std::size_t i = 0; i < num_ids; ++i) hash.add(static_cast<std::uint64_t>(ids[i]));
    choice_ = hash.value();
    // Ids are bounded although they were checked: another thread may change them meanwhile.
    sort_pairs([ids, last = src.num_sequences() - 1](std::uint64_t i) {
      return std::min(static_cast<std::uint64_t>(ids[i]), last);
    });
  }
  src.require_unchanged();
  tgt.require_unchanged();
  for (const Cell& cell : cells_) {
    if (cell.tgt_length < 1 || cell.src_length < 1) {
      throw CorpusError(src.prefix(), "was written to while it was read; open it again");
    }
  }
}

std::size_t PairOrder::cell_at(std::uint64_t position) const noexcept {
  const auto after =
      std::upper_bound(cells_.begin(), cells_.end(), position,
                       [](std::uint64_t place, const Cell& cell) { return place < cell.begin; });
  return static_cast<std::size_t>(after - cells_.begin()) - 1;
}

template <typename Number, typename PairAt>
void PairOrder::sort(const IndexedFile& src, const IndexedFile& tgt, const PairAt& pair_at) {
  std::uint64_t width = longest(src, size_, pair_at) + 1;
  std::uint64_t height = longest(tgt, size_, pair_at) + 1;
  if (width > kMaxCounters / height) {
    width = std::min(width, kMaxCountedLength + 1);
    height = std::min(height, kMaxCountedLength + 1);
  }
  const std::uint64_t overlong = width * height;  // the last counter
  // Source lengths rise in one target length and fall in the next, so that a batch that spans both
  // holds similar lengths.
  const auto counter_of = [&](std::uint64_t i) {
    const std::uint64_t pair = pair_at(i);
    // A length that a rewrite in place made negative counts as overlong here, and is refused later.
    const auto row = static_cast<std::uint64_t>(tgt.length(pair));
    const auto column = static_cast<std::uint64_t>(src.length(pair));
    if (__builtin_expect(row >= height || column >= width, 0)) return overlong;
    // The column, or width - 1 - column in odd rows. A branch would be mispredicted every other
    // time.
    const std::uint64_t odd = 0 - row % 2;
    return row * width + (column ^ odd) + (width & odd);
  };
  // Each share of the pairs has counters of its own, by which it is counted and then written. So
  // pairs of equal lengths stay in ascending order, whatever the number of shares.
  const std::uint64_t max_shares = std::max<std::uint64_t>(1, kMaxCounters / (overlong + 1));
  const std::uint64_t shares = std::min(num_shares(size_, kMinPairsPerThread), max_shares);
  std::vector<std::vector<Number>> counters(shares, std::vector<Number>(overlong + 1));
  for_each_share(size_, shares, [&](std::uint64_t share, std::uint64_t begin, std::uint64_t end) {
    std::vector<Number>& counts = counters[share];
    for (std::uint64_t i = begin; i < end; ++i) ++counts[counter_of(i)];
  });
  std::uint64_t begin = 0;
  std::uint64_t first_overlong = 0;
  for (std::uint64_t counter = 0; counter <= overlong; ++counter) {
    const std::uint64_t cell_begin = begin;
    if (counter == overlong) first_overlong = begin;
    for (std::vector<Number>& counts : counters) {
      begin += std::exchange(counts[counter], static_cast<Number>(begin));
    }
    if (begin == cell_begin || counter == overlong) continue;
    const std::uint64_t row = counter / width;
    const std::uint64_t column = row % 2 == 0 ? counter % width : width - 1 - counter % width;
    cells_.push_back(
        {static_cast<std::int32_t>(row), static_cast<std::int32_t>(column), cell_begin});
  }
  auto* order = reinterpret_cast<Number*>(order_.data());
  for_each_share(size_, shares, [&](std::uint64_t share, std::uint64_t first, std::uint64_t last) {
    std::vector<Number>& places = counters[share];
    std::array<std::uint64_t, kBlock> block;
    for (std::uint64_t i = first; i < last;) {
      const std::uint64_t num = std::min(kBlock, last - i);
      for (std::uint64_t k = 0; k < num; ++k) {
        block[k] = std::min<std::uint64_t>(places[counter_of(i + k)]++, size_ - 1);
        __builtin_prefetch(order + block[k], 1);
      }
      for (std::uint64_t k = 0; k < num; ++k, ++i)
        order[block[k]] = static_cast<Number>(pair_at(i));
    }
  });
  sort_by_comparing<Number>(src, tgt, first_overlong);
}

/// Sorts the pairs from position `first` on.
template <typename Number>
void PairOrder::sort_by_comparing(const IndexedFile& src, const IndexedFile& tgt,
                                  std::uint64_t first) {
  struct Row {
    std::int32_t tgt_length;
    std::int32_t src_length;
    Number pair;
  };
  auto* order = reinterpret_cast<Number*>(order_.data());
  std::vector<Row> rows(size_ - first);
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    const Number pair = order[first + i];
    rows[i] = {tgt.length(pair), src.length(pair), pair};
  }
  std::sort(rows.begin(), rows.end(), [](const Row& one, const Row& other) {
    if (one.tgt_length != other.tgt_length) return one.tgt_length < other.tgt_length;
    if (one.src_length != other.src_length) {
      return (one.src_length < other.src_length) == (one.tgt_length % 2 == 0);
    }
    return one.pair < other.pair;
  });
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    order[first + i] = row.pair;
    if (i == 0 || rows[i - 1].tgt_length != row.tgt_length ||
        rows[i - 1].src_length != row.src_length) {
      cells_.push_back({row.tgt_length, row.src_length, first + i});
    }
  }
}

}  // namespace pycat
