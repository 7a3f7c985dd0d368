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

constexpr std::size_t kTurns = 8;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("language model: ") + what);
}

/// The table of weights is max than the cache: fetched while the automaton goes on.
void prefetch(const std::uint16_t* row, std::size_t size) {
  constexpr std::size_t kLine = 64 / sizeof(std::uint16_t);
  for (std::size_t i = 0; i < size; i += kLine) __builtin_prefetch(row + i);
}

/// The float32 whose sign, exponent and mantissa are those of finite float16: 2^-112 of them.
Floats widen(const std::uint16_t* halves) {
  using Halves = std::uint16_t __attribute__((vector_size(8)));
  Halves narrow;
  std::memcpy(&narrow, halves, sizeof narrow);
  const Ints high = __builtin_convertvector(narrow, Ints) << 16;
  return reinterpret_cast<Floats>((high >> 3) & static_cast<std::int32_t>(0x8fffe000));
}
constexpr float kWidened = 0x1p112f;

/// What the automaton finds in each line, in order. It mostly waits for its tables: the lines take
/// turns, so that their waits overlap.
void find_features(const LanguageTables& tables, const std::string_view* lines,
                   std::size_t num_lines, std::array<std::vector<std::size_t>, kTurns>& found) {
  std::array<std::uint32_t, kTurns> state{};
  std::size_t longest = 0;
  for (std::size_t i = 0; i < num_lines; ++i) {
    found[i].clear();
    longest = std::max(longest, std::min(lines[i].size(), kLanguageBytes));
  }
  for (std::size_t at = 0; at < longest; ++at) {
    for (std::size_t i = 0; i < num_lines; ++i) {
      if (at >= lines[i].size()) continue;
      const std::size_t row = tables.rows[state[i]];
      state[i] = tables.moves[row * 256 + static_cast<unsigned char>(lines[i][at])];
      if (tables.features[state[i]] < 0) continue;
      const auto feature = static_cast<std::size_t>(tables.features[state[i]]);
      const auto num_languages = static_cast<std::size_t>(tables.num_languages);
      found[i].push_back(feature);
      prefetch(tables.weights + feature * num_languages, num_languages);
    }
  }
}

/// Log probabilities of a block of languages, kept in registers over all features.
void add_up(const LanguageTables& tables, const std::vector<std::size_t>& features,
            const std::vector<float>& times, std::size_t first, float* scores) {
  constexpr std::size_t kParts = kLanguageBlock / kLanes;
  Floats sums[kParts];
  for (std::size_t part = 0; part < kParts; ++part) {
    sums[part] = load(tables.prior + first + part * kLanes);
  }
  for (std::size_t i = 0; i < times.size(); ++i) {
    const std::uint16_t* weights =
        tables.weights + features[i] * static_cast<std::size_t>(tables.num_languages) + first;
    const Floats factor = broadcast(times[i]);
    for (std::size_t part = 0; part < kParts; ++part) {
      sums[part] = multiply_add(factor, widen(weights + part * kLanes), sums[part]);
    }
  }
  for (std::size_t part = 0; part < kParts; ++part) store(scores + part * kLanes, sums[part]);
}

float sum_of(Floats a) { return (a[0] + a[1]) + (a[2] + a[3]); }

/// Replaces log probabilities, times `scale`, by multiples of the highest one; returns their sum.
float relative(std::vector<float>& scores, float scale) {
  Floats most = load(scores.data()), total{};
  for (std::size_t l = kLanes; l < scores.size(); l += kLanes) most = max(most, load(&scores[l]));
  const float best = std::max(std::max(most[0], most[1]), std::max(most[2], most[3]));
  for (std::size_t l = 0; l < scores.size(); l += kLanes) {
    const Floats multiple = exponential((load(&scores[l]) - best) * scale);
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
                          const std::vector<std::int64_t>& wanted, float* probability) {
  const auto num_languages = static_cast<std::size_t>(tables.num_languages);
  std::array<float, kLanguageBytes + 1> weight_of_count;
  for (std::size_t count = 0; count <= kLanguageBytes; ++count) {
    weight_of_count[count] = kWidened * std::log1p(static_cast<float>(count));
  }
  std::vector<std::uint16_t> counts(static_cast<std::size_t>(tables.num_features));
  std::vector<float> times, scores(num_languages);
  std::array<std::vector<std::size_t>, kTurns> found;
  for (std::size_t first = 0; first < lines.size(); first += kTurns) {
    const std::size_t num_lines = std::min(kTurns, lines.size() - first);
    find_features(tables, lines.data() + first, num_lines, found);
    for (std::size_t i = first; i < first + num_lines; ++i) {
      std::vector<std::size_t>& features = found[i - first];
      if (features.empty()) {
        probability[i] = 1.0f;
        continue;
      }
      for (const std::size_t feature : features) ++counts[feature];
      times.clear();
      for (const std::size_t feature : features) {
        if (counts[feature] == 0) continue;  // it stands there already
        features[times.size()] = feature;
        times.push_back(weight_of_count[counts[feature]]);
        counts[feature] = 0;
      }
      for (std::size_t l = 0; l < num_languages; l += kLanguageBlock) {
        add_up(tables, features, times, l, scores.data() + l);
      }
      // The square root keeps it calibrated over lengths.
      const auto size = std::min(lines[i].size(), kLanguageBytes);
      const float scale = 1.0f / std::sqrt(static_cast<float>(size));
      const float total = relative(scores, scale);
      float sum = 0;
      for (const std::int64_t l : wanted) sum += scores[static_cast<std::size_t>(l)];
      probability[i] = sum / total;
    }
  }
}

}  // namespace pycat
