#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace pycat {

/// Languages come by so many; what there is not has a prior of -infinity.
constexpr std::size_t kLanguageBlock = 16;

/// Of a line, what says its language is said by then.
constexpr std::size_t kLanguageBytes = 256;

/// py3langid's model: an automaton that finds byte n-grams, and a naive Bayes classifier over them.
/// The arrays are the caller's, and outlive it.
struct LanguageTables {
  const std::uint32_t* moves;  // (R, 256) the next state
  std::int64_t num_rows;
  const std::uint16_t* rows;     // (S,) the row of `moves` of a state
  const std::int32_t* features;  // (S,) what a state has found, or -1
  std::int64_t num_states;
  const std::uint16_t* weights;  // (F, L) log probabilities, finite, as bits of float16
  std::int64_t num_features;
  const float* prior;  // (L,)
  std::int64_t num_languages;
};

/// Throws std::invalid_argument where an automaton would leave its tables.
void check_tables(const LanguageTables& tables);

/// How likely each line is, by its first 256 bytes, in one of the languages `wanted`; 1 where no
/// n-gram is known. As in
/// py3langid, log probabilities are divided by the square root of the line's length.
void language_probability(const LanguageTables& tables, const std::vector<std::string_view>& lines,
                          const std::vector<std::int64_t>& wanted, float* probability);

}  // namespace pycat
