#include "pair_order.h"

#include <algorithm>
#include <limits>
#include <string>

#include "errors.h"

namespace pycat {
namespace {

// Counters of 8 bytes: 32 MB. Sentences stay far below; documents are sorted by comparing.
constexpr std::uint64_t kMaxCounters = 1 << 22;

std::int32_t longest(const IndexedFile& file) {
  std::int32_t result = 0;
  for (std::uint64_t i = 0; i < file.num_sequences(); ++i) {
    result = std::max(result, file.length(i));
  }
  return result;
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
    // Bounded all the same: another thread may change them while they are sorted.
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
                       [](std::uint64_t wanted, const Cell& cell) { return wanted < cell.begin; });
  return static_cast<std::size_t>(after - cells_.begin()) - 1;
}

template <typename Number, typename PairAt>
void PairOrder::sort(const IndexedFile& src, const IndexedFile& tgt, const PairAt& pair_at) {
  if (!sort_by_counting<Number>(src, tgt, pair_at)) {
    sort_by_comparing<Number>(src, tgt, pair_at);
  }
}

template <typename Number, typename PairAt>
bool PairOrder::sort_by_counting(const IndexedFile& src, const IndexedFile& tgt,
                                 const PairAt& pair_at) {
  const auto width = static_cast<std::uint64_t>(longest(src)) + 1;
  const auto height = static_cast<std::uint64_t>(longest(tgt)) + 1;
  if (width > kMaxCounters / height) return false;
  // Source lengths rise in one target length and fall in the next, so that batches which span both
  // hold like ones.
  const auto counter_of = [&](std::uint64_t i) {
    const std::uint64_t pair = pair_at(i);
    // Bounded although verified: the files may be rewritten in place while they are read.
    const std::uint64_t row = std::min(static_cast<std::uint64_t>(tgt.length(pair)), height - 1);
    const std::uint64_t column = std::min(static_cast<std::uint64_t>(src.length(pair)), width - 1);
    return row * width + (row % 2 == 0 ? column : width - 1 - column);
  };
  std::vector<std::uint64_t> counters(width * height);
  for (std::uint64_t i = 0; i < size_; ++i) ++counters[counter_of(i)];
  std::uint64_t begin = 0;
  for (std::uint64_t counter = 0; counter < counters.size(); ++counter) {
    const std::uint64_t count = counters[counter];
    counters[counter] = begin;
    if (count == 0) continue;
    const std::uint64_t row = counter / width;
    const std::uint64_t column = row % 2 == 0 ? counter % width : width - 1 - counter % width;
    cells_.push_back({static_cast<std::int32_t>(row), static_cast<std::int32_t>(column), begin});
    begin += count;
  }
  auto* order = reinterpret_cast<Number*>(order_.data());
  for (std::uint64_t i = 0; i < size_; ++i) {
    const std::uint64_t position = counters[counter_of(i)]++;
    if (position < size_) order[position] = static_cast<Number>(pair_at(i));
  }
  return true;
}

template <typename Number, typename PairAt>
void PairOrder::sort_by_comparing(const IndexedFile& src, const IndexedFile& tgt,
                                  const PairAt& pair_at) {
  struct Row {
    std::int32_t tgt_length;
    std::int32_t src_length;
    Number pair;
  };
  std::vector<Row> rows(size_);
  for (std::uint64_t i = 0; i < size_; ++i) {
    const std::uint64_t pair = pair_at(i);
    rows[i] = {tgt.length(pair), src.length(pair), static_cast<Number>(pair)};
  }
  std::sort(rows.begin(), rows.end(), [](const Row& one, const Row& other) {
    if (one.tgt_length != other.tgt_length) return one.tgt_length < other.tgt_length;
    if (one.src_length != other.src_length) {
      return (one.src_length < other.src_length) == (one.tgt_length % 2 == 0);
    }
    return one.pair < other.pair;
  });
  auto* order = reinterpret_cast<Number*>(order_.data());
  for (std::uint64_t i = 0; i < size_; ++i) {
    const Row& row = rows[i];
    order[i] = row.pair;
    if (cells_.empty() || cells_.back().tgt_length != row.tgt_length ||
        cells_.back().src_length != row.src_length) {
      cells_.push_back({row.tgt_length, row.src_length, i});
    }
  }
}

}  // namespace pycat
