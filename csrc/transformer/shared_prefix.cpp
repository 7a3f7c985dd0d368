#include "transformer/shared_prefix.h"

#include <algorithm>

namespace pycat {

std::int64_t num_shared_tokens(const PackedTokens& tokens) {
  if (tokens.num_sequences < 2) return 0;
  const std::int64_t* first = tokens.tokens + tokens.cu_seqlens[0];
  std::int64_t num_shared = tokens.cu_seqlens[1] - tokens.cu_seqlens[0];
  for (std::int64_t b = 1; b < tokens.num_sequences; ++b) {
    const std::int64_t* begin = tokens.tokens + tokens.cu_seqlens[b];
    const std::int64_t length = tokens.cu_seqlens[b + 1] - tokens.cu_seqlens[b];
    num_shared = std::min(num_shared, length);
    num_shared = std::mismatch(first, first + num_shared, begin).first - first;
  }
  return num_shared;
}

PackedTokens SharedPrefix::split(const PackedTokens& tokens, std::int64_t num_shared) {
  std::int64_t* out = tokens_.at_least(tokens.num_tokens);
  std::int32_t* ends = cu_seqlens_.at_least(tokens.num_sequences + 2);
  std::int64_t* places = places_.at_least(tokens.num_tokens);
  std::copy_n(tokens.tokens, num_shared, out);
  ends[0] = 0;
  std::int64_t end = num_shared;
  for (std::int64_t b = 0; b < tokens.num_sequences; ++b) {
    ends[b + 1] = static_cast<std::int32_t>(end);
    const std::int64_t first = tokens.cu_seqlens[b];
    for (std::int64_t i = 0; i < num_shared; ++i) places[first + i] = i;
    for (std::int64_t t = first + num_shared; t < tokens.cu_seqlens[b + 1]; ++t) {
      out[end] = tokens.tokens[t];
      places[t] = end++;
    }
  }
  ends[tokens.num_sequences + 1] = static_cast<std::int32_t>(end);
  return {out, end, ends, tokens.num_sequences + 1};
}

}  // namespace pycat
