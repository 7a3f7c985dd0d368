#include "filters/pair_measures.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iterator>
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
Word read(const void* at) {
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

/// A code point and the number of its bytes in UTF-8. An invalid byte is a code point beyond all
/// tables, of one byte.
struct Decoded {
  std::size_t code_point;
  std::size_t num_bytes;
};

constexpr std::size_t kInvalid = std::numeric_limits<std::size_t>::max();

Decoded decode(const char* at, const char* end) {
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

/// Whether a code point is of a script without blanks between words below U+2000: Thai, Lao,
/// Tibetan, Burmese; Khmer; Tai Le to New Tai Lue; Tai Tham; Balinese to Batak.
bool is_without_blanks(std::size_t code_point) {
  constexpr std::size_t kRanges[][2] = {
      {0xE00, 0x10A0}, {0x1780, 0x1800}, {0x1950, 0x1A00}, {0x1A20, 0x1AB0}, {0x1B00, 0x1C00}};
  return std::any_of(std::begin(kRanges), std::end(kRanges), [&](const auto& range) {
    return code_point >= range[0] && code_point < range[1];
  });
}

/// Whether a code point is a letter of a script with blanks between words: an ASCII letter, or one
/// from U+00C0 to U+1FFF. Beyond lie punctuation and scripts without blanks, in which a question
/// mark stands between letters.
bool is_letter(std::size_t code_point) {
  if (code_point >= 0x80) {
    return code_point >= 0xC0 && code_point < 0x2000 && !is_without_blanks(code_point);
  }
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

using Letters = std::vector<std::uint16_t>;

bool is_ascii_letter(unsigned letter) {
  return letter < 0x80 && is_small(static_cast<unsigned char>(letter));
}
bool is_digit(unsigned letter) { return letter - '0' < 10; }

/// The end of what begins at `at` if that is a placeholder, a tag or an entity, else `at`:
/// `%(name)s`, `%1$d`, `{name}`, `$name`, `<tag>`, `&amp;`. The letters are case folded, and `at`
/// is in front of the two blanks at the end.
std::size_t placeholder_end(const Letters& letters, std::size_t at) {
  constexpr std::size_t kMaxLetters = 80;
  const std::size_t end = std::min(letters.size(), at + kMaxLetters);
  const auto behind = [&](std::size_t from, unsigned letter) {
    while (from < end && letters[from] != letter) ++from;
    return from < end ? from + 1 : at;
  };
  const unsigned first = letters[at], next = letters[at + 1];
  std::size_t i = at + 1;
  switch (first) {
    case '%':
      if (next == '(') i = std::max(behind(i, ')'), i);
      while (i < end && (is_digit(letters[i]) || letters[i] == '.' || letters[i] == '$' ||
                         letters[i] == '-' || letters[i] == '#')) {
        ++i;
      }
      return i < end && is_ascii_letter(letters[i]) ? i + 1 : at;
    case '{':
      return behind(i, '}');
    case '<':
      return is_ascii_letter(next) || next == '/' ? behind(i, '>') : at;
    case '$':
    case '&':
      while (i < end && (is_ascii_letter(letters[i]) || is_digit(letters[i]) || letters[i] == '_' ||
                         letters[i] == '#')) {
        ++i;
      }
      if (first == '$') return i > at + 1 ? i : at;
      return i < end && letters[i] == ';' ? i + 1 : at;
    default:
      return at;
  }
}

/// Removes what translators leave as it is: placeholders, tags and entities, and words in ASCII
/// with an underscore, a slash or an at sign, such as paths and addresses.
void remove_markup(Letters& letters) {
  std::size_t out = 2, word = 2;  // the place after the last blank, or the last letter beyond ASCII
  bool is_name = false;
  const std::size_t end = letters.size() - 2;
  const auto end_word = [&] {
    if (is_name) out = word;
    is_name = false;
  };
  for (std::size_t at = 2; at < end;) {
    if (const std::size_t behind = placeholder_end(letters, at); behind > at) {
      at = std::min(behind, end);
      continue;
    }
    const std::uint16_t letter = letters[at++];
    const bool ends_word = letter <= ' ' || letter >= 0x80;
    if (ends_word) end_word();
    letters[out++] = letter;
    if (ends_word) word = out;
    is_name |= letter == '_' || letter == '/' || letter == '@' || letter == '\\';
  }
  end_word();
  letters.resize(out + 2);
  letters[out] = letters[out + 1] = ' ';
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
    if (length <= 2 && !is_in_long && !goes_on) count += static_cast<std::int64_t>(length);
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
    excess -= zeros + count_short_digits(is_src ? src_folded : tgt_folded);
  }
  const std::int64_t different =
      2 * std::min(only_src, only_tgt) + std::max<std::int64_t>(excess, 0);
  return static_cast<float>(static_cast<double>(different) /
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
  measure_overlap(measures);
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
  if ((high & 0x8080808080808080) != 0) {
    fold(line, side);
    if (markup > 0) remove_markup(side.letters);
    side.num_damaged = count_damage(line) + count_lost_letters(line);
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
  if (markup > 0) remove_markup(side.letters);
  side.num_damaged = count_lost_letters(line);
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
  std::size_t num_wide = 0;
  bool is_ordered = true, was_combining = false;
  const auto add_letter = [&](std::size_t code_point, unsigned kind) {
    const auto number = static_cast<std::uint16_t>(code_point ^ (code_point >> 16) * 0x9E37);
    if ((kind & CodePoints::kMark) != 0 && letter > letters + 2) {
      letter[-1] = static_cast<std::uint16_t>(letter[-1] * 31 + number);
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
  side.is_wide = 2 * num_wide >= static_cast<std::size_t>(letter - letters - 2);
  letter[0] = letter[1] = ' ';
  side.letters.resize(static_cast<std::size_t>(letter + 2 - letters));
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
    // Four letters are a word of 64 bits.
    const auto first = read<std::uint64_t>(letters + i);
    count(side.is_wide ? first : first * kMultiplier2 ^ read<std::uint64_t>(letters + i + 4));
  }
  return static_cast<double>(repeated) / static_cast<double>(num_grams);
}

}  // namespace pycat
