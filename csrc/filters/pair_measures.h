#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "filters/markup.h"

namespace pycat {

/// Tables of the code points below `size`. Code points beyond are not folded, and have kind 0. The
/// arrays belong to the caller.
struct CodePoints {
  /// (size,) what a code point is case folded to: its UTF-8 bytes from the lowest byte on, and
  /// their number in the highest byte; 0 for a code point that is not changed.
  const std::uint64_t* folded;
  const std::uint8_t* kinds;  // (size,) sums of the constants below
  std::size_t size;

  static constexpr std::uint8_t kSmall = 1;      // a lower case or title case letter
  static constexpr std::uint8_t kCapital = 2;    // an upper case letter
  static constexpr std::uint8_t kCombining = 4;  // a canonical combining class other than 0
  static constexpr std::uint8_t kUnstable = 8;   // normalizing may change it, or the one before it
  static constexpr std::uint8_t kMark = 16;      // part of the letter before it
  static constexpr std::uint8_t kForm = 32;      // invisible, or a blank other than U+0020
  static constexpr std::uint8_t kWide = 64;      // an ideograph, kana or Hangul syllable
  static constexpr std::uint8_t kIdeograph = 128;
};

/// What is unusual about how a line is written.
struct Forms {
  static constexpr std::uint8_t kCapitals = 1;     // all letters are capitals
  static constexpr std::uint8_t kComposition = 2;  // perhaps not in NFC, or with kForm characters
  static constexpr std::uint8_t kMarkup = 4;       // characters of placeholders, tags, addresses
};

constexpr std::size_t kNumBands = 2;

/// The measures of a pair that rules are made of; docs/format.md defines them.
struct PairMeasures {
  std::array<std::int32_t, 2> num_chars;
  /// Letters of each side, without as much markup as both have. An ideograph counts as three, kana
  /// and Hangul syllables as two, for translations into alphabets are so much longer; but not where
  /// both sides are in such letters.
  std::array<std::int32_t, 2> num_letters;
  /// Share of each side's letters that stand in names: words in ASCII with a capital, in a line of
  /// another script.
  std::array<float, 2> names;
  float overlap;
  std::int32_t num_grams;  // distinct 4-grams of the target, of which `overlap` is a share
  float letters;
  float number_mismatch;
  std::int32_t num_damaged;
  float repetition;
  /// What may have to be normalized in a side: a sum of the constants of `Forms`.
  std::array<std::uint8_t, 2> forms;
  /// Hashes of the bytes of the source, of the target, and of both.
  std::array<std::uint64_t, 3> hashes;
  std::array<std::uint64_t, kNumBands> bands;
};

/// Hashes of a line's set of n-grams, by one permutation hashing: the minimum hash in each
/// of 32 bins (Li et al. 2012), with empty bins filled from the next (Shrivastava and Li 2014),
/// joined to two bands. Two lines whose sets have the Jaccard similarity s share a given band with
/// probability s^16, and at least one with about 1 - (1 - s^16)^2: 0.69 at s = 0.95, 0.34 at 0.9,
/// 0.06 at 0.8. If the line is short, all bands are equal where the sets are, and otherwise none: a
/// word is a large part of it. Lines whose `seed` differs share no band.
std::array<std::uint64_t, kNumBands> band_hashes(const std::vector<std::uint64_t>& grams,
                                                 bool is_short, std::uint64_t seed);

/// A map from n-grams to marks. clear() takes constant time.
class GramMarks {
 public:
  /// Removes all n-grams, and makes room for `max_grams`.
  void clear(std::size_t max_grams);

  /// The mark of an n-gram, which is added with mark 0 if it is not in the map.
  std::uint32_t& mark(std::uint64_t gram);

 private:
  struct Entry {
    std::uint64_t gram;
    std::uint32_t round;
    std::uint32_t mark;
  };
  std::vector<Entry> entries_;
  std::size_t mask_ = 0;
  unsigned shift_ = 63;
  std::uint32_t round_ = 0;
};

/// Measures pairs of UTF-8 lines. Bytes that are not valid UTF-8 are measured as they are. Not
/// thread-safe.
class PairMeasurer {
 public:
  explicit PairMeasurer(const CodePoints& code_points) : code_points_(code_points) {}

  PairMeasures measure(std::string_view src, std::string_view tgt);

 private:
  struct Side {
    std::string folded;  // case folded, with ASCII digits, and blanks as punctuation beyond ASCII
    /// The letters of `folded`, in the end without markup, with two blanks at both ends. A letter
    /// is a code point and the marks after it, as a number of 16 bits: that of the code point if it
    /// is below U+10000 and has no mark, else a hash.
    Letters letters;
    float names;
    std::int64_t num_extra;  // what wide letters count beyond one
    bool is_wide;            // half of the letters or more are ideographs, kana or Hangul syllables
    std::array<std::int64_t, 10> digits;
    std::int64_t num_chars;
    float letter_share;
    std::uint8_t forms;
    std::int32_t num_damaged;
  };

  void measure_side(std::string_view line, Side& side) const;
  void fold(std::string_view line, Side& side) const;
  void measure_bands(PairMeasures& measures);
  void measure_overlap(PairMeasures& measures);
  double repetition(const Side& side);

  CodePoints code_points_;
  Side src_, tgt_;
  Letters plain_;
  std::vector<std::uint64_t> plain_grams_;
  GramMarks grams_;
};

}  // namespace pycat
