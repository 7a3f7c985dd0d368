#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pycat {

/// What is known of the first code points; of those beyond, nothing is to be known. The arrays are
/// the caller's.
struct CodePoints {
  /// How a code point is case folded: its UTF-8 bytes, lowest first, and their number in the
  /// highest byte; 0 for one that stays.
  const std::uint64_t* folded;
  const std::uint8_t* kinds;
  std::size_t size;

  static constexpr std::uint8_t kSmall = 1;  // a small or title letter
  static constexpr std::uint8_t kCapital = 2;
  static constexpr std::uint8_t kCombining = 4;  // of a canonical combining class but 0
  static constexpr std::uint8_t kUnstable = 8;   // normalizing may change it, or what is before it
};

constexpr std::size_t kNumBands = 4;

/// What the rules ask of a pair; docs/format.md says what each is.
struct PairMeasures {
  std::array<std::int32_t, 2> num_chars;
  float overlap;
  float letters;
  float number_mismatch;
  std::int32_t num_damaged;
  float repetition;
  /// Whether a side is all in capitals, or may not be in Unicode's form NFC.
  std::array<bool, 2> is_unusual;
  /// Of source, target and both: equal where the bytes are.
  std::array<std::uint64_t, 3> hashes;
  std::array<std::uint64_t, kNumBands> bands;
};

/// Hashes of the 8-byte n-grams of a line, by one permutation hashing: the least hash in each of 32
/// bins (Li et al. 2012), empty bins filled from the next (Shrivastava and Li 2014), in four bands.
/// Two lines whose sets of n-grams have the Jaccard similarity s share a band with a probability of
/// about 1 - (1 - s^8)^4: 0.9 at s = 0.9, 0.5 at 0.8, 0.02 at 0.5. Lines below 64 bytes share all
/// or none, as they are equal or not: by a single n-gram they would share bands.
///
/// Behind the `size` bytes of `line` lie eight that are 0.
std::array<std::uint64_t, kNumBands> band_hashes(const char* line, std::size_t size);

/// A set of n-grams that is emptied at no cost.
class GramSet {
 public:
  /// Empties it, for so many n-grams at most.
  void clear(std::size_t most);

  /// The mark of an n-gram: 0 where it was not there, and is now.
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

/// Measures pairs of UTF-8 lines, one after the other. Bytes that are no UTF-8 stay as they are.
class PairMeasurer {
 public:
  explicit PairMeasurer(const CodePoints& code_points) : code_points_(code_points) {}

  PairMeasures measure(std::string_view src, std::string_view tgt);

 private:
  struct Side {
    std::string lowered;  // in small ASCII letters, two blanks at both ends
    std::string folded;   // without case
    std::array<std::int64_t, 10> digits;
    std::int64_t num_chars;
    float letters;
    bool is_unusual;
    std::int32_t num_damaged;
  };

  void measure_side(std::string_view line, Side& side) const;
  void fold(std::string_view line, Side& side) const;
  float overlap();
  double repetition(const std::string& line);

  CodePoints code_points_;
  Side src_, tgt_;
  std::string plain_;
  GramSet grams_;
};

}  // namespace pycat
