#include "filters/pair_measures.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "base/hash.h"

namespace pycat {
namespace {

constexpr std::size_t kGramBytes = 8;
constexpr std::size_t kNumBins = 32;
constexpr std::size_t kShortBytes = 64;
constexpr std::uint64_t kMultiplier1 = 0x9E3779B97F4A7C15;
constexpr std::uint64_t kMultiplier2 = 0xD6E8FEB86659FD93;

template <typename Word>
Word read(const char* at) {
  Word word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

bool is_between(unsigned char byte, unsigned low, unsigned high) {
  return byte >= low && byte <= high;
}
bool is_capital(unsigned char byte) { return is_between(byte, 'A', 'Z'); }
bool is_small(unsigned char byte) { return is_between(byte, 'a', 'z'); }
char lower(char byte) {
  return is_capital(static_cast<unsigned char>(byte)) ? static_cast<char>(byte + 32) : byte;
}

/// Three counters of 16 bits side by side: those of many bytes are added up at once.
constexpr std::uint64_t kLetter = 1, kBlank = 1 << 16, kContinuation = std::uint64_t{1} << 32;
constexpr std::size_t kMaxSummedBytes = 65535;  // more could overflow a counter

struct ByteTables {
  std::array<std::uint64_t, 256> counters{};
  std::array<bool, 256> is_plain{};  // neither blank nor ASCII punctuation

  ByteTables() {
    constexpr std::string_view kPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
    for (std::size_t i = 0; i < 256; ++i) {
      const auto byte = static_cast<unsigned char>(i);
      if (byte >= 0x80 || is_capital(byte) || is_small(byte)) counters[i] += kLetter;
      if (byte <= 32) counters[i] += kBlank;
      if ((byte & 0xC0) == 0x80) counters[i] += kContinuation;
      is_plain[i] =
          byte > 32 && kPunctuation.find(static_cast<char>(byte)) == std::string_view::npos;
    }
  }
};

const ByteTables& byte_tables() {
  static const ByteTables tables;
  return tables;
}

/// A code point and the number of its bytes in UTF-8. An invalid byte is a code point beyond all
/// tables, of one byte.
struct Decoded {
  std::size_t code_point;
  std::size_t num_bytes;
};

Decoded decode(const char* at, const char* end) {
  constexpr std::size_t kInvalid = std::numeric_limits<std::size_t>::max();
  const auto first = static_cast<unsigned char>(*at);
  if (first < 0x80) return {first, 1};
  const std::size_t num_bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || num_bytes > static_cast<std::size_t>(end - at)) {
    return {kInvalid, 1};
  }
  std::size_t code_point = first & (0x7Fu >> num_bytes);
  for (std::size_t i = 1; i < num_bytes; ++i) {
    const auto byte = static_cast<unsigned char>(at[i]);
    if ((byte & 0xC0) != 0x80) return {kInvalid, 1};
    code_point = code_point << 6 | (byte & 0x3Fu);
  }
  constexpr std::array<std::size_t, 3> kMinCodePoint{0x80, 0x800, 0x10000};
  if (code_point < kMinCodePoint[num_bytes - 2]) return {kInvalid, 1};
  return {code_point, num_bytes};
}

/// Counts U+FFFD, and characters of UTF-8 that was read as Latin-1 or Windows-1252 and written
/// again.
std::int32_t count_damage(std::string_view line) {
  std::int32_t count = 0;
  for (std::size_t i = 0; i + 2 < line.size(); ++i) {
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(line[i + at]); };
    if (byte(0) == 0xEF && byte(1) == 0xBF && byte(2) == 0xBD) {
      ++count;
      i += 2;
    } else if (byte(0) == 0xC3 && is_between(byte(1), 0x82, 0x83) && i + 3 < line.size()) {
      constexpr std::string_view kOfWindows = "\x92\x93\xa0\xa1\xb8\xbd\xbe";
      if ((byte(2) == 0xC2 && is_between(byte(3), 0x80, 0xBF)) ||
          (byte(2) == 0xC5 && kOfWindows.find(line[i + 3]) != std::string_view::npos) ||
          (byte(2) == 0xE2 && is_between(byte(3), 0x80, 0x84))) {
        ++count;
        i += 3;
      }
    }
  }
  return count;
}

/// Whether a code point counts as a letter: an ASCII letter, or any from U+00C0 to U+1FFF. Beyond
/// lie punctuation and scripts without blanks, which often stand beside a question mark.
bool is_letter(std::size_t code_point) {
  if (code_point >= 0x80) return code_point >= 0xC0 && code_point < 0x2000;
  const auto byte = static_cast<unsigned char>(code_point);
  return is_capital(byte) || is_small(byte);
}

/// Counts question marks between letters, which stand for letters that were lost. Those in words
/// that look like addresses do not count.
std::int32_t count_lost_letters(std::string_view line) {
  std::int32_t count = 0;
  if (line.find('?') == std::string_view::npos) return 0;
  for (std::size_t begin = 0, end = 0; begin < line.size(); begin = end + 1) {
    end = begin;
    while (end < line.size() && static_cast<unsigned char>(line[end]) > ' ') ++end;
    const std::string_view word = line.substr(begin, end - begin);
    if (word.find_first_of("/=&") != std::string_view::npos) continue;
    const std::size_t last = std::min(word.find_first_of(".:"), word.size());
    for (std::size_t at = word.find('?'); at < last; at = word.find('?', at + 1)) {
      if (at == 0 || at + 1 == word.size()) continue;
      std::size_t before = at - 1;
      while (before > 0 && (word[before] & 0xC0) == 0x80) --before;
      const char* data = word.data();
      count += is_letter(decode(data + before, data + at).code_point) &&
               is_letter(decode(data + at + 1, data + word.size()).code_point);
    }
  }
  return count;
}

std::uint64_t hash_of(std::string_view line) {
  Hash hash;
  hash.add(line.size());
  std::size_t i = 0;
  for (; i + 8 <= line.size(); i += 8) hash.add(read<std::uint64_t>(line.data() + i));
  if (i < line.size()) {
    std::uint64_t tail = 0;
    std::memcpy(&tail, line.data() + i, line.size() - i);
    hash.add(tail);
  }
  return hash.value();
}

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 32)) * kMultiplier1;
  x = (x ^ (x >> 29)) * kMultiplier2;
  return x ^ (x >> 32);
}

/// The share of both sides' digits that the other side lacks; 0 if a side has no digits.
float number_mismatch(const std::array<std::int64_t, 10>& src,
                      const std::array<std::int64_t, 10>& tgt) {
  std::int64_t num_src = 0, num_tgt = 0, num_different = 0;
  for (std::size_t digit = 0; digit < 10; ++digit) {
    num_src += src[digit];
    num_tgt += tgt[digit];
    num_different += std::abs(src[digit] - tgt[digit]);
  }
  if (num_src == 0 || num_tgt == 0) return 0;
  return static_cast<float>(static_cast<double>(num_different) /
                            static_cast<double>(num_src + num_tgt));
}

}  // namespace

std::array<std::uint64_t, kNumBands> band_hashes(const char* line, std::size_t size) {
  constexpr std::uint64_t kEmpty = std::numeric_limits<std::uint64_t>::max();
  std::array<std::uint64_t, kNumBins> min_hashes;
  min_hashes.fill(kEmpty);
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < size; ++i) {
    const std::uint64_t hash = mix(read<std::uint64_t>(line + i));
    std::uint64_t& bin = min_hashes[hash >> 59];
    bin = std::min(bin, hash);
    total += hash;
  }
  std::array<std::uint64_t, kNumBands> bands{};
  if (size < kShortBytes) {
    bands.fill(total);
    return bands;
  }
  for (std::size_t bin = 0; bin < kNumBins; ++bin) {
    // An empty bin takes the next bin's hash. The distance is added, so that bins filled from one
    // bin differ.
    std::uint64_t distance = 0;
    while (min_hashes[(bin + distance) % kNumBins] == kEmpty && distance < kNumBins) ++distance;
    std::uint64_t& band = bands[bin / (kNumBins / kNumBands)];
    band = mix(band ^ (min_hashes[(bin + distance) % kNumBins] + distance * kMultiplier2));
  }
  return bands;
}

void GramMarks::clear(std::size_t max_grams) {
  unsigned bits = 4;
  while ((std::size_t{1} << bits) < 2 * max_grams) ++bits;
  mask_ = (std::size_t{1} << bits) - 1;
  shift_ = 64 - bits;
  if (entries_.size() <= mask_) entries_.resize(mask_ + 1, Entry{0, 0, 0});
  if (++round_ == 0) {
    std::fill(entries_.begin(), entries_.end(), Entry{0, 0, 0});
    round_ = 1;
  }
}

std::uint32_t& GramMarks::mark(std::uint64_t gram) {
  for (std::size_t at = (gram * kMultiplier1) >> shift_;; at = (at + 1) & mask_) {
    Entry& entry = entries_[at];
    if (entry.round != round_) {
      entry = {gram, round_, 0};
      return entry.mark;
    }
    if (entry.gram == gram) return entry.mark;
  }
}

PairMeasures PairMeasurer::measure(std::string_view src, std::string_view tgt) {
  measure_side(src, src_);
  measure_side(tgt, tgt_);
  PairMeasures measures{};
  measures.num_chars = {static_cast<std::int32_t>(src_.num_chars),
                        static_cast<std::int32_t>(tgt_.num_chars)};
  measures.overlap = overlap();
  measures.letters = std::min(src_.letters, tgt_.letters);
  measures.number_mismatch = number_mismatch(src_.digits, tgt_.digits);
  measures.num_damaged = src_.num_damaged + tgt_.num_damaged;
  measures.repetition =
      static_cast<float>(std::abs(repetition(tgt_.folded) - repetition(src_.folded)));
  measures.is_unusual = {src_.is_unusual, tgt_.is_unusual};
  const std::uint64_t src_hash = hash_of(src), tgt_hash = hash_of(tgt);
  Hash both;
  both.add(src_hash);
  both.add(tgt_hash);
  measures.hashes = {src_hash, tgt_hash, both.value()};

  plain_.resize(src_.folded.size() + 1 + tgt_.folded.size() + kGramBytes);
  const ByteTables& tables = byte_tables();
  char* at = plain_.data();
  const auto append = [&](const std::string& folded) {
    for (const char byte : folded) {
      *at = byte;
      at += tables.is_plain[static_cast<unsigned char>(byte)];
    }
  };
  append(src_.folded);
  *at++ = '\t';
  append(tgt_.folded);
  std::memset(at, 0, kGramBytes);
  measures.bands = band_hashes(plain_.data(), static_cast<std::size_t>(at - plain_.data()));
  return measures;
}

void PairMeasurer::measure_side(std::string_view line, Side& side) const {
  const ByteTables& tables = byte_tables();
  side.lowered.resize(line.size() + 4);
  char* lowered = side.lowered.data();
  std::memset(lowered, ' ', 2);
  std::memset(lowered + 2 + line.size(), ' ', 2);
  for (std::size_t i = 0; i < line.size(); ++i) lowered[2 + i] = lower(line[i]);

  side.digits.fill(0);
  std::int64_t letters = 0, blanks = 0, num_continuation = 0;
  for (std::size_t first = 0; first < line.size(); first += kMaxSummedBytes) {
    std::uint64_t counters = 0;
    for (const char byte : line.substr(first, kMaxSummedBytes)) {
      counters += tables.counters[static_cast<unsigned char>(byte)];
      const auto digit = static_cast<unsigned>(byte - '0');
      if (digit < 10) ++side.digits[digit];
    }
    letters += static_cast<std::int64_t>(counters & 0xFFFF);
    blanks += static_cast<std::int64_t>(counters >> 16 & 0xFFFF);
    num_continuation += static_cast<std::int64_t>(counters >> 32);
  }
  const auto size = static_cast<std::int64_t>(line.size());
  side.num_chars = size - num_continuation;
  side.letters = static_cast<float>(static_cast<double>(letters) /
                                    static_cast<double>(std::max<std::int64_t>(size - blanks, 1)));

  std::uint64_t high = 0;
  std::size_t i = 0;
  for (; i + 8 <= line.size(); i += 8) high |= read<std::uint64_t>(line.data() + i);
  for (; i < line.size(); ++i) high |= static_cast<unsigned char>(line[i]);
  if ((high & 0x8080808080808080) != 0) {
    fold(line, side);
    side.num_damaged = count_damage(line) + count_lost_letters(line);
    return;
  }
  side.folded.assign(lowered + 2, line.size());
  side.num_damaged = count_lost_letters(line);
  bool has_capital = false, has_small = false;
  for (const char byte : line) {
    has_capital |= is_capital(static_cast<unsigned char>(byte));
    has_small |= is_small(static_cast<unsigned char>(byte));
  }
  side.is_unusual = has_capital && !has_small;
}

void PairMeasurer::fold(std::string_view line, Side& side) const {
  constexpr std::size_t kMaxFoldedBytes = 8;  // written for a code point: 7 bytes and their number
  side.folded.resize(kMaxFoldedBytes * line.size());
  char* out = side.folded.data();
  unsigned kinds = 0;
  bool is_ordered = true, was_combining = false;
  const char* const end = line.data() + line.size();
  for (const char* at = line.data(); at < end;) {
    const auto byte = static_cast<unsigned char>(*at);
    if (byte < 0x80) {
      if (is_capital(byte)) kinds |= CodePoints::kCapital;
      if (is_small(byte)) kinds |= CodePoints::kSmall;
      *out++ = lower(*at++);
      was_combining = false;
      continue;
    }
    const Decoded next = decode(at, end);
    const bool is_known = next.code_point < code_points_.size;
    const unsigned kind = is_known ? code_points_.kinds[next.code_point] : 0u;
    const std::uint64_t folded = is_known ? code_points_.folded[next.code_point] : 0;
    kinds |= kind;
    const bool is_combining = (kind & CodePoints::kCombining) != 0;
    // Normalizing may change the order of several combining marks.
    is_ordered &= !(is_combining && was_combining);
    was_combining = is_combining;
    if (folded != 0) {
      std::memcpy(out, &folded, kMaxFoldedBytes);
      out += std::min<std::size_t>(folded >> 56, kMaxFoldedBytes - 1);
    } else {
      for (std::size_t i = 0; i < next.num_bytes; ++i) *out++ = at[i];
    }
    at += next.num_bytes;
  }
  side.folded.resize(static_cast<std::size_t>(out - side.folded.data()));
  const bool is_capitals = (kinds & CodePoints::kCapital) != 0 && (kinds & CodePoints::kSmall) == 0;
  side.is_unusual = is_capitals || (kinds & CodePoints::kUnstable) != 0 || !is_ordered;
}

float PairMeasurer::overlap() {
  constexpr std::uint32_t kOfSource = 1, kOfTarget = 2;
  const std::string &src = src_.lowered, &tgt = tgt_.lowered;
  grams_.clear(src.size() + tgt.size());
  for (std::size_t i = 0; i + 4 <= src.size(); ++i) {
    grams_.mark(read<std::uint32_t>(src.data() + i)) = kOfSource;
  }
  std::int64_t shared = 0, all = 0;
  for (std::size_t i = 0; i + 4 <= tgt.size(); ++i) {
    std::uint32_t& mark = grams_.mark(read<std::uint32_t>(tgt.data() + i));
    all += mark != kOfTarget;
    shared += mark == kOfSource;
    mark = kOfTarget;
  }
  return static_cast<float>(static_cast<double>(shared) / static_cast<double>(all));
}

double PairMeasurer::repetition(const std::string& line) {
  if (line.size() < kGramBytes) return 0;
  const std::size_t num_grams = line.size() - kGramBytes + 1;
  grams_.clear(num_grams);
  std::size_t repeated = 0;
  for (std::size_t i = 0; i < num_grams; ++i) {
    std::uint32_t& mark = grams_.mark(read<std::uint64_t>(line.data() + i));
    repeated += mark;
    mark = 1;
  }
  return static_cast<double>(repeated) / static_cast<double>(num_grams);
}

}  // namespace pycat
