#pragma once

#include <cstdint>

#include "transformer/panels.h"
#include "transformer/transformer.h"

namespace pycat {

/// How many tokens all sequences begin with. One sequence alone shares none.
std::int64_t num_shared_tokens(const PackedTokens& tokens);

/// Sequences without the tokens that all begin with, which are a sequence of their own: it is the
/// first, and sequence b of before is what follows them in sequence b + 1.
class SharedPrefix {
 public:
  /// Splits off the first `num_shared` tokens. The result lasts until the next call.
  PackedTokens split(const PackedTokens& tokens, std::int64_t num_shared);

  /// Where split() put token t, (T,).
  const std::int64_t* places() { return places_.at_least(0); }

 private:
  Buffer<std::int64_t> tokens_;
  Buffer<std::int32_t> cu_seqlens_;
  Buffer<std::int64_t> places_;
};

}  // namespace pycat
