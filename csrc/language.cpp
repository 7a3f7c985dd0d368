#include "language.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>

namespace pycat {
namespace {

constexpr std::size_t kLanes = 4;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("language model: ") + what);
}

/// The table of weights is larger than the cache: fetched while the automaton goes on.
void prefetch(const float* row, std::size_t size) {
  constexpr std::size_t kLine = 64 / sizeof(float);
  for (std::size_t i = 0; i < size; i += kLine) __builtin_prefetch(row + i);
  __builtin_prefetch(row + size - 1);
}

/// What the automaton finds in each line, in order. It mostly waits for its tables: the lines take
/// turns, so that their waits overlap.
void find_features(const LanguageTables& tables, const std::string_view* lines,
                   std::size_t num_lanes, std::array<std::vector<std::size_t>, kLanes>& found) {
  std::array<std::uint32_t, kLanes> state{};
  std::size_t longest = 0;
  for (std::size_t lane = 0; lane < num_lanes; ++lane) {
    found[lane].clear();
    longest = std::max(longest, lines[lane].size());
  }
  for (std::size_t at = 0; at < longest; ++at) {
    for (std::size_t lane = 0; lane < num_lanes; ++lane) {
      if (at >= lines[lane].size()) continue;
      const std::size_t row = tables.rows[state[lane]];
      state[lane] = tables.moves[row * 256 + static_cast<unsigned char>(lines[lane][at])];
      if (tables.features[state[lane]] < 0) continue;
      const auto feature = static_cast<std::size_t>(tables.features[state[lane]]);
      const auto num_languages = static_cast<std::size_t>(tables.num_languages);
      found[lane].push_back(feature);
      prefetch(tables.weights + feature * num_languages, num_languages);
    }
  }
}

}  // namespace

void check_tables(const LanguageTables& tables) {
  require(tables.num_states > 0 && tables.num_languages > 0, "expected a state and a language");
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
  std::vector<std::uint32_t> counts(static_cast<std::size_t>(tables.num_features));
  std::vector<float> scores(num_languages);
  std::array<std::vector<std::size_t>, kLanes> found;
  for (std::size_t first = 0; first < lines.size(); first += kLanes) {
    const std::size_t num_lanes = std::min(kLanes, lines.size() - first);
    find_features(tables, lines.data() + first, num_lanes, found);
    for (std::size_t i = first; i < first + num_lanes; ++i) {
      const std::vector<std::size_t>& features = found[i - first];
      if (features.empty()) {
        probability[i] = 1.0f;
        continue;
      }
      for (const std::size_t feature : features) ++counts[feature];
      std::copy_n(tables.prior, num_languages, scores.begin());
      for (const std::size_t feature : features) {
        if (counts[feature] == 0) continue;  // it has been added
        const float times = std::log1p(static_cast<float>(counts[feature]));
        const float* weights = tables.weights + feature * num_languages;
        for (std::size_t l = 0; l < num_languages; ++l) scores[l] += times * weights[l];
        counts[feature] = 0;
      }
      // The square root keeps it calibrated over lengths.
      const float scale = 1.0f / std::sqrt(static_cast<float>(lines[i].size()));
      const float best = *std::max_element(scores.begin(), scores.end());
      float total = 0;
      for (float& score : scores) total += score = std::exp((score - best) * scale);
      float sum = 0;
      for (const std::int64_t l : wanted) sum += scores[static_cast<std::size_t>(l)];
      probability[i] = sum / total;
    }
  }
}

}  // namespace pycat
