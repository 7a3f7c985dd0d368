#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace pycat {

/// The number of languages is a multiple of this. Those that fill the last block have a prior of
/// -infinity.
constexpr std::size_t kLanguageBlock = 16;

/// Only so many first bytes of a line are read.
constexpr std::size_t kMaxLineBytes = 256;

/// The model of py3langid: an automaton that finds byte n-grams, the features, and a naive Bayes
/// classifier over them. The arrays belong to the caller.
struct LanguageTables {
  const std::uint32_t* moves;  // (R, 256) the next state for each row and byte
  std::int64_t num_rows;
  const std::uint16_t* rows;     // (S,) the row of `moves` for each state
  const std::int32_t* features;  // (S,) the feature that ends in each state, or -1
  std::int64_t num_states;
  const std::uint16_t* weights;  // (F, L) log probabilities: bits of finite float16
  std::int64_t num_features;
  const float* prior;  // (L,) log probabilities
  std::int64_t num_languages;
};

/// Throws std::invalid_argument if an entry leads out of the tables.
void check_tables(const LanguageTables& tables);

/// Writes to `probability` (N,) how likely it is that each line is in one of `languages`: 1 where
/// the first kMaxLineBytes bytes of the line hold no known n-gram. As in py3langid, log
/// probabilities are divided by the square root of the line's length.
void language_probability(const LanguageTables& tables, const std::vector<std::string_view>& lines,
                          const std::vector<std::int64_t>& languages, float* probability);

}  // namespace pycat
