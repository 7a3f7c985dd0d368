#include "filters/pair_measures.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "base/hash.h"
#include "filters/damage.h"
#include "filters/markup.h"
#include "filters/utf8.h"

namespace pycat {
namespace {

constexpr std::size_t kNumBins = 32;
constexpr std::size_t kShortLetters = 128;
constexpr std::uint64_t kMultiplier1 = 0x9E3779B97F4A7C15;
constexpr std::uint64_t kMultiplier2 = 0xD6E8FEB86659FD93;

template <typename Word>
Word read(const void* at) {
  Word word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

char lower(char byte) {
  return is_capital(static_cast<unsigned char>(byte)) ? static_cast<char>(byte + 32) : byte;
}

/// Four counters of 16 bits side by side: those of many bytes are added up at once.
constexpr std::uint64_t kLetter = 1, kBlank = 1 << 16, kContinuation = std::uint64_t{1} << 32,
                        kMarkup = std::uint64_t{1} << 48;
constexpr std::size_t kMaxSummedBytes = 65535;  // more could overflow a counter

struct ByteTables {
  std::array<std::uint64_t, 256> counters{};
  std::array<bool, 256> is_plain{};  // neither blank nor ASCII punctuation

  ByteTables() {
    constexpr std::string_view kMarkupBytes = "%$&<@_{/\\";
    constexpr std::string_view kPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
    for (std::size_t i = 0; i < 256; ++i) {
      const auto byte = static_cast<unsigned char>(i);
      if (byte >= 0x80 || is_capital(byte) || is_small(byte)) counters[i] += kLetter;
      if (byte <= 32) counters[i] += kBlank;
      if ((byte & 0xC0) == 0x80) counters[i] += kContinuation;
      if (kMarkupBytes.find(static_cast<char>(byte)) != std::string_view::npos) {
        counters[i] += kMarkup;
      }
      is_plain[i] =
          byte > 32 && kPunctuation.find(static_cast<char>(byte)) == std::string_view::npos;
    }
  }
};

const ByteTables& byte_tables() {
  static const ByteTables tables;
  return tables;
}

/// How many ASCII letters and digits stand in words of them with a capital.
std::int64_t count_name_letters(std::string_view line) {
  std::int64_t count = 0, length = 0;
  bool has_capital = false;
  const auto end_word = [&] {
    if (has_capital) count += length;
    length = 0;
    has_capital = false;
  };
  for (const char letter : line) {
    const auto byte = static_cast<unsigned char>(letter);
    if (is_capital(byte) || is_small(byte) || is_between(byte, '0', '9')) {
      ++length;
      has_capital |= is_capital(byte);
    } else {
      end_word();
    }
  }
  end_word();
  return count;
}

/// The n-gram of letters that begins here: of four where a line is in wide letters, else of eight.
/// Four letters are a word of 64 bits.
std::uint64_t gram_at(const std::uint16_t* letters, bool is_wide) {
  const auto first = read<std::uint64_t>(letters);
  return is_wide ? first : first * kMultiplier2 ^ read<std::uint64_t>(letters + 4);
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

/// How many digits stand in numbers of one or two digits, which the other side may have in words.
/// Parts of a longer number, such as those of 1,000 and 12.345, do not count.
std::int64_t count_short_digits(const std::string& folded) {
  const auto is_digit = [&](std::size_t at) {
    return at < folded.size() && is_between(static_cast<unsigned char>(folded[at]), '0', '9');
  };
  std::int64_t count = 0;
  bool is_in_long = false;
  for (std::size_t begin = 0, end = 0; begin < folded.size(); begin = end + 1) {
    end = begin;
    while (is_digit(end)) ++end;
    const std::size_t length = end - begin;
    if (length == 0) {
      is_in_long = false;
      continue;
    }
    // Three digits behind a separator go on with the number.
    const bool goes_on = end < folded.size() &&
                         std::string_view(",.' ").find(folded[end]) != std::string_view::npos &&
                         is_digit(end + 1) && is_digit(end + 2) && is_digit(end + 3) &&
                         !is_digit(end + 4);
    // Digits behind a letter are no number.
    const bool is_behind_letter =
        begin > 0 && is_small(static_cast<unsigned char>(folded[begin - 1]));
    if (length <= 2 && !is_in_long && !goes_on && !is_behind_letter)
      count += static_cast<std::int64_t>(length);
    is_in_long = goes_on;
  }
  return count;
}

/// The share of both sides' digits that differ; 0 if a side has no digits.
///
/// Digits that only one side lacks do not count where it may say them in words: zeros, since 10,000
/// may be 1 with a word for ten thousand, and numbers of one or two digits, such as months.
float number_mismatch(const std::array<std::int64_t, 10>& src,
                      const std::array<std::int64_t, 10>& tgt, const std::string& src_folded,
                      const std::string& tgt_folded) {
  std::int64_t num_src = 0, num_tgt = 0, only_src = 0, only_tgt = 0;
  for (std::size_t digit = 0; digit < 10; ++digit) {
    num_src += src[digit];
    num_tgt += tgt[digit];
    only_src += std::max<std::int64_t>(src[digit] - tgt[digit], 0);
    only_tgt += std::max<std::int64_t>(tgt[digit] - src[digit], 0);
  }
  if (num_src == 0 || num_tgt == 0 || (only_src == 0 && only_tgt == 0)) return 0;
  std::int64_t excess = std::abs(only_src - only_tgt);
  if (excess > 0) {
    const bool is_src = only_src > only_tgt;
    const std::int64_t zeros =
        std::max<std::int64_t>(is_src ? src[0] - tgt[0] : tgt[0] - src[0], 0);
    std::int64_t in_words = count_short_digits(src_folded) - count_short_digits(tgt_folded);
    if (!is_src) in_words = -in_words;
    excess -= zeros + std::max<std::int64_t>(in_words, 0);
  }
  const std::int64_t different =
      2 * std::min(only_src, only_tgt) + std::max<std::int64_t>(excess, 0);
  return static_cast<float>(static_cast<double>(different) /
                            static_cast<double>(num_src + num_tgt));
}

}  // namespace

std::array<std::uint64_t, kNumBands> band_hashes(const std::vector<std::uint64_t>& grams,
                                                 bool is_short, std::uint64_t seed) {
  constexpr std::uint64_t kEmpty = std::numeric_limits<std::uint64_t>::max();
  std::array<std::uint64_t, kNumBins> min_hashes;
  min_hashes.fill(kEmpty);
  std::uint64_t total = 0;
  for (const std::uint64_t gram : grams) {
    const std::uint64_t hash = mix(gram);
    std::uint64_t& bin = min_hashes[hash >> 59];
    bin = std::min(bin, hash);
    total += hash;
  }
  std::array<std::uint64_t, kNumBands> bands;
  bands.fill(seed);
  if (is_short) {
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
  measure_bands(measures);
  // Markup that only one side has more of counts as its letters. Wide letters count as several only
  // beside an alphabet.
  const bool are_wide = src_.is_wide && tgt_.is_wide;
  std::array<std::int64_t, 2> num_removed{};
  for (std::size_t i = 0; i < 2; ++i) {
    Side& side = i == 0 ? src_ : tgt_;
    const auto before = static_cast<std::int64_t>(side.letters.size());
    if ((side.forms & Forms::kMarkup) != 0) remove_markup(side.letters);
    num_removed[i] = before - static_cast<std::int64_t>(side.letters.size());
    measures.num_letters[i] =
        static_cast<std::int32_t>(before - 4 + (are_wide ? 0 : side.num_extra));
  }
  for (std::int32_t& count : measures.num_letters) {
    count -= static_cast<std::int32_t>(std::min(num_removed[0], num_removed[1]));
  }
  measures.num_chars = {static_cast<std::int32_t>(src_.num_chars),
                        static_cast<std::int32_t>(tgt_.num_chars)};
  measure_overlap(measures);
  measures.names = {src_.names, tgt_.names};
  measures.letters = std::min(src_.letter_share, tgt_.letter_share);
  measures.number_mismatch = number_mismatch(src_.digits, tgt_.digits, src_.folded, tgt_.folded);
  measures.num_damaged = src_.num_damaged + tgt_.num_damaged;
  measures.repetition = static_cast<float>(std::abs(repetition(tgt_) - repetition(src_)));
  measures.forms = {src_.forms, tgt_.forms};
  const std::uint64_t src_hash = hash_of(src), tgt_hash = hash_of(tgt);
  Hash both;
  both.add(src_hash);
  both.add(tgt_hash);
  measures.hashes = {src_hash, tgt_hash, both.value()};

  return measures;
}

void PairMeasurer::measure_bands(PairMeasures& measures) {
  const ByteTables& tables = byte_tables();
  // Four letters are a word of 64 bits. The last n-grams go on with zeros.
  plain_.resize(src_.letters.size() + tgt_.letters.size() + 4);
  std::uint16_t* out = plain_.data();
  const auto append = [&](const Side& side) {
    const std::uint16_t* const begin = out;
    for (const std::uint16_t letter : side.letters) {
      *out = letter;
      out += letter >= 0x80 || tables.is_plain[letter];
    }
    return static_cast<std::size_t>(out - begin);
  };
  const std::size_t num_src = append(src_);
  *out++ = '\t';
  const std::size_t num_tgt = append(tgt_);
  std::fill(out, plain_.data() + plain_.size(), std::uint16_t{0});
  plain_grams_.resize(num_src + 1 + num_tgt);
  for (std::size_t i = 0; i < plain_grams_.size(); ++i) {
    plain_grams_[i] = read<std::uint64_t>(plain_.data() + i);
  }
  const auto num_letters =
      static_cast<std::int64_t>(plain_grams_.size()) + src_.num_extra + tgt_.num_extra;
  // Pairs that differ in a number say different things, however much of them is the same.
  std::uint64_t digits = 0;
  for (const Side* side : {&src_, &tgt_}) {
    for (const std::int64_t count : side->digits) {
      digits = mix(digits ^ (static_cast<std::uint64_t>(count) + 1));
    }
  }
  measures.bands = band_hashes(plain_grams_, num_letters < std::int64_t{kShortLetters}, digits);
}

void PairMeasurer::measure_side(std::string_view line, Side& side) const {
  const ByteTables& tables = byte_tables();
  side.digits.fill(0);
  std::int64_t letters = 0, blanks = 0, num_continuation = 0, markup = 0;
  for (std::size_t first = 0; first < line.size(); first += kMaxSummedBytes) {
    std::uint64_t counters = 0;
    for (const char byte : line.substr(first, kMaxSummedBytes)) {
      counters += tables.counters[static_cast<unsigned char>(byte)];
      const auto digit = static_cast<unsigned>(byte - '0');
      if (digit < 10) ++side.digits[digit];
    }
    letters += static_cast<std::int64_t>(counters & 0xFFFF);
    blanks += static_cast<std::int64_t>(counters >> 16 & 0xFFFF);
    num_continuation += static_cast<std::int64_t>(counters >> 32 & 0xFFFF);
    markup += static_cast<std::int64_t>(counters >> 48);
  }
  const auto size = static_cast<std::int64_t>(line.size());
  side.num_chars = size - num_continuation;
  side.letter_share = static_cast<float>(
      static_cast<double>(letters) / static_cast<double>(std::max<std::int64_t>(size - blanks, 1)));
  side.forms = markup > 0 ? Forms::kMarkup : 0;

  std::uint64_t high = 0;
  std::size_t i = 0;
  for (; i + 8 <= line.size(); i += 8) high |= read<std::uint64_t>(line.data() + i);
  for (; i < line.size(); ++i) high |= static_cast<unsigned char>(line[i]);
  side.is_wide = false;
  side.num_extra = 0;
  side.names = 0;
  if ((high & 0x8080808080808080) != 0) {
    fold(line, side);
    side.num_damaged = count_damage(line);
    return;
  }
  side.folded.resize(line.size());
  char* folded = side.folded.data();
  for (std::size_t at = 0; at < line.size(); ++at) folded[at] = lower(line[at]);
  side.letters.resize(line.size() + 4);
  std::uint16_t* out = side.letters.data();
  out[0] = out[1] = out[line.size() + 2] = out[line.size() + 3] = ' ';
  for (std::size_t at = 0; at < line.size(); ++at) {
    out[at + 2] = static_cast<unsigned char>(folded[at]);
  }
  side.num_damaged = count_damage(line);
  bool has_capital = false, has_small = false;
  for (const char byte : line) {
    has_capital |= is_capital(static_cast<unsigned char>(byte));
    has_small |= is_small(static_cast<unsigned char>(byte));
  }
  if (has_capital && !has_small) side.forms |= Forms::kCapitals;
}

void PairMeasurer::fold(std::string_view line, Side& side) const {
  constexpr std::size_t kMaxFoldedBytes = 8;  // written for a code point: 7 bytes and their number
  constexpr std::size_t kMaxFoldedLetters = 4;  // for each byte of the line
  side.folded.resize(kMaxFoldedBytes * line.size());
  side.letters.resize(kMaxFoldedLetters * line.size() + 4);
  char* out = side.folded.data();
  std::uint16_t* const letters = side.letters.data();
  letters[0] = letters[1] = ' ';
  std::uint16_t* letter = letters + 2;
  unsigned kinds = 0;
  std::size_t num_wide = 0, num_ideographs = 0;
  bool is_ordered = true, was_combining = false, is_other_script = false;
  const auto add_letter = [&](std::size_t code_point, unsigned kind) {
    const auto number = static_cast<std::uint16_t>(code_point ^ (code_point >> 16) * 0x9E37);
    if ((kind & CodePoints::kMark) != 0 && letter > letters + 2) {
      letter[-1] = static_cast<std::uint16_t>((letter[-1] * 31 + number) | 0x8000);
    } else {
      *letter++ = number;
    }
  };
  const char* const end = line.data() + line.size();
  for (const char* at = line.data(); at < end;) {
    const auto byte = static_cast<unsigned char>(*at);
    if (byte < 0x80) {
      if (is_capital(byte)) kinds |= CodePoints::kCapital;
      if (is_small(byte)) kinds |= CodePoints::kSmall;
      *out = lower(*at++);
      *letter++ = static_cast<unsigned char>(*out++);
      was_combining = false;
      continue;
    }
    const Decoded next = decode(at, end);
    const bool is_known = next.code_point < code_points_.size;
    const unsigned kind = is_known ? code_points_.kinds[next.code_point] : 0u;
    const std::uint64_t folded = is_known ? code_points_.folded[next.code_point] : 0;
    kinds |= kind;
    num_wide += (kind & CodePoints::kWide) != 0;
    num_ideographs += (kind & CodePoints::kIdeograph) != 0;
    // Greek and whatever follows, up to U+1FFF; beyond lies punctuation.
    is_other_script |= next.code_point - 0x370 < 0x1C90 || (kind & CodePoints::kWide) != 0;
    const bool is_combining = (kind & CodePoints::kCombining) != 0;
    // Normalizing may change the order of several combining marks.
    is_ordered &= !(is_combining && was_combining);
    was_combining = is_combining;
    if (folded != 0) {
      std::memcpy(out, &folded, kMaxFoldedBytes);
      const char* const folded_end = out + std::min<std::size_t>(folded >> 56, kMaxFoldedBytes - 1);
      while (out < folded_end) {
        const Decoded part = decode(out, folded_end);
        const bool is_part_known = part.code_point < code_points_.size;
        add_letter(part.code_point, is_part_known ? code_points_.kinds[part.code_point] : 0u);
        if (part.code_point - '0' < 10) ++side.digits[part.code_point - '0'];
        out += part.num_bytes;
      }
    } else {
      add_letter(next.code_point == kInvalid ? 0xFF00u | byte : next.code_point, kind);
      for (std::size_t i = 0; i < next.num_bytes; ++i) *out++ = at[i];
    }
    at += next.num_bytes;
  }
  side.folded.resize(static_cast<std::size_t>(out - side.folded.data()));
  side.num_extra = static_cast<std::int64_t>(num_wide + num_ideographs);
  side.is_wide = 2 * num_wide >= static_cast<std::size_t>(letter - letters - 2);
  letter[0] = letter[1] = ' ';
  side.letters.resize(static_cast<std::size_t>(letter + 2 - letters));
  if (is_other_script && (kinds & CodePoints::kCapital) != 0) {
    side.names = static_cast<float>(static_cast<double>(count_name_letters(line)) /
                                    static_cast<double>(side.letters.size() - 4));
  }
  const bool is_capitals = (kinds & CodePoints::kCapital) != 0 && (kinds & CodePoints::kSmall) == 0;
  if (is_capitals) side.forms |= Forms::kCapitals;
  if ((kinds & (CodePoints::kUnstable | CodePoints::kForm)) != 0 || !is_ordered) {
    side.forms |= Forms::kComposition;
  }
}

void PairMeasurer::measure_overlap(PairMeasures& measures) {
  constexpr std::uint32_t kOfSource = 1, kOfTarget = 2;
  const Letters &src = src_.letters, &tgt = tgt_.letters;
  grams_.clear(src.size() + tgt.size());
  for (std::size_t i = 0; i + 4 <= src.size(); ++i) {
    grams_.mark(read<std::uint64_t>(src.data() + i)) = kOfSource;
  }
  std::int64_t shared = 0, all = 0;
  for (std::size_t i = 0; i + 4 <= tgt.size(); ++i) {
    std::uint32_t& mark = grams_.mark(read<std::uint64_t>(tgt.data() + i));
    all += mark != kOfTarget;
    shared += mark == kOfSource;
    mark = kOfTarget;
  }
  measures.overlap = static_cast<float>(static_cast<double>(shared) / static_cast<double>(all));
  measures.num_grams = static_cast<std::int32_t>(all);
}

double PairMeasurer::repetition(const Side& side) {
  const std::size_t num_letters = side.letters.size() - 4;
  const std::size_t gram_letters = side.is_wide ? 4 : 8;
  if (num_letters < gram_letters) return 0;
  const std::size_t num_grams = num_letters - gram_letters + 1;
  const std::uint16_t* letters = side.letters.data() + 2;
  grams_.clear(num_grams);
  std::size_t repeated = 0;
  const auto count = [&](std::uint64_t gram) {
    std::uint32_t& mark = grams_.mark(gram);
    repeated += mark;
    mark = 1;
  };
  for (std::size_t i = 0; i < num_grams; ++i) {
    count(gram_at(letters + i, side.is_wide));
  }
  return static_cast<double>(repeated) / static_cast<double>(num_grams);
}

}  // namespace pycat
