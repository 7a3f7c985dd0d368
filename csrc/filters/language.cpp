#include "filters/language.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

#include "simd/portable.h"

namespace pycat {
namespace {

constexpr std::size_t kLinesAtOnce = 8;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("language model: ") + what);
}

/// Fetches a row of weights while the automaton goes on: the table is larger than the cache.
void prefetch(const std::uint16_t* row, std::size_t size) {
  constexpr std::size_t kLine = 64 / sizeof(std::uint16_t);
  for (std::size_t i = 0; i < size; i += kLine) __builtin_prefetch(row + i);
}

/// Float32 with the sign, exponent and mantissa bits of finite float16: their values times 2^-112.
Floats widen(const std::uint16_t* halves) {
  using Halves = std::uint16_t __attribute__((vector_size(8)));
  Halves narrow;
  std::memcpy(&narrow, halves, sizeof narrow);
  const Ints high = __builtin_convertvector(narrow, Ints) << 16;
  return reinterpret_cast<Floats>((high >> 3) & static_cast<std::int32_t>(0x8fffe000));
}
constexpr float kWidened = 0x1p112f;

/// Writes the features of each line in order. The lines take turns, byte by byte: the automaton
/// mostly waits for its tables, and so the waits overlap.
void find_features(const LanguageTables& tables, const std::string_view* lines,
                   std::size_t num_lines,
                   std::array<std::vector<std::size_t>, kLinesAtOnce>& line_features) {
  std::array<std::uint32_t, kLinesAtOnce> state{};
  std::size_t longest = 0;
  for (std::size_t i = 0; i < num_lines; ++i) {
    line_features[i].clear();
    longest = std::max(longest, std::min(lines[i].size(), kMaxLineBytes));
  }
  for (std::size_t at = 0; at < longest; ++at) {
    for (std::size_t i = 0; i < num_lines; ++i) {
      if (at >= lines[i].size()) continue;
      const std::size_t row = tables.rows[state[i]];
      state[i] = tables.moves[row * 256 + static_cast<unsigned char>(lines[i][at])];
      if (tables.features[state[i]] < 0) continue;
      const auto feature = static_cast<std::size_t>(tables.features[state[i]]);
      const auto num_languages = static_cast<std::size_t>(tables.num_languages);
      line_features[i].push_back(feature);
      prefetch(tables.weights + feature * num_languages, num_languages);
    }
  }
}

/// Writes the log probabilities of a block of languages, which stay in registers over all features.
void add_log_probabilities(const LanguageTables& tables, const std::vector<std::size_t>& features,
                           const std::vector<float>& factors, std::size_t first, float* scores) {
  constexpr std::size_t kVectors = kLanguageBlock / kLanes;
  Floats sums[kVectors];
  for (std::size_t vector = 0; vector < kVectors; ++vector) {
    sums[vector] = load(tables.prior + first + vector * kLanes);
  }
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const std::uint16_t* weights =
        tables.weights + features[i] * static_cast<std::size_t>(tables.num_languages) + first;
    const Floats factor = broadcast(factors[i]);
    for (std::size_t vector = 0; vector < kVectors; ++vector) {
      sums[vector] = multiply_add(factor, widen(weights + vector * kLanes), sums[vector]);
    }
  }
  for (std::size_t vector = 0; vector < kVectors; ++vector)
    store(scores + vector * kLanes, sums[vector]);
}

float sum_of(Floats a) { return (a[0] + a[1]) + (a[2] + a[3]); }

/// Replaces log probabilities by exp(scale * (score - the highest score)), and returns their sum.
float exponentiate(std::vector<float>& scores, float scale) {
  Floats max_score = load(scores.data()), total{};
  for (std::size_t l = kLanes; l < scores.size(); l += kLanes)
    max_score = max(max_score, load(&scores[l]));
  const float highest =
      std::max(std::max(max_score[0], max_score[1]), std::max(max_score[2], max_score[3]));
  for (std::size_t l = 0; l < scores.size(); l += kLanes) {
    const Floats multiple = exponential((load(&scores[l]) - highest) * scale);
    store(&scores[l], multiple);
    total += multiple;
  }
  return sum_of(total);
}

}  // namespace

void check_tables(const LanguageTables& tables) {
  require(tables.num_states > 0 && tables.num_languages > 0, "expected a state and a language");
  require(tables.num_languages % static_cast<std::int64_t>(kLanguageBlock) == 0,
          "expected languages by the sixteen");
  for (std::int64_t i = 0; i < tables.num_rows * 256; ++i) {
    require(tables.moves[i] < tables.num_states, "a move leads to no state");
  }
  for (std::int64_t state = 0; state < tables.num_states; ++state) {
    require(tables.rows[state] < tables.num_rows, "a state has no row of moves");
    require(tables.features[state] >= -1 && tables.features[state] < tables.num_features,
            "a state finds an unknown feature");
  }
}

void language_probability(const LanguageTables& tables, const std::vector<std::string_view>& lines,
                          const std::vector<std::int64_t>& languages, float* probability) {
  const auto num_languages = static_cast<std::size_t>(tables.num_languages);
  std::array<float, kMaxLineBytes + 1> weight_of_count;
  for (std::size_t count = 0; count <= kMaxLineBytes; ++count) {
    weight_of_count[count] = kWidened * std::log1p(static_cast<float>(count));
  }
  std::vector<std::uint16_t> counts(static_cast<std::size_t>(tables.num_features));
  std::vector<float> factors, scores(num_languages);
  std::array<std::vector<std::size_t>, kLinesAtOnce> line_features;
  for (std::size_t first = 0; first < lines.size(); first += kLinesAtOnce) {
    const std::size_t num_lines = std::min(kLinesAtOnce, lines.size() - first);
    find_features(tables, lines.data() + first, num_lines, line_features);
    for (std::size_t i = first; i < first + num_lines; ++i) {
      std::vector<std::size_t>& features = line_features[i - first];
      if (features.empty()) {
        probability[i] = 1.0f;
        continue;
      }
      for (const std::size_t feature : features) ++counts[feature];
      factors.clear();
      for (const std::size_t feature : features) {
        if (counts[feature] == 0) continue;  // counted already
        features[factors.size()] = feature;
        factors.push_back(weight_of_count[counts[feature]]);
        counts[feature] = 0;
      }
      for (std::size_t l = 0; l < num_languages; l += kLanguageBlock) {
        add_log_probabilities(tables, features, factors, l, scores.data() + l);
      }
      // Divided by the square root, probabilities are calibrated for lines of any length.
      const auto size = std::min(lines[i].size(), kMaxLineBytes);
      const float scale = 1.0f / std::sqrt(static_cast<float>(size));
      const float total = exponentiate(scores, scale);
      float sum = 0;
      for (const std::int64_t l : languages) sum += scores[static_cast<std::size_t>(l)];
      probability[i] = sum / total;
    }
  }
}

}  // namespace pycat
