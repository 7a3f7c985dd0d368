#pragma once

#include <cstddef>
#include <cstdint>

#include "corpus/index_format.h"

namespace pycat {

/// Where one sequence lies in the .bin file.
struct Slice {
  std::uint64_t sequence;
  const std::byte* tokens;
  std::int32_t length;
};

enum class OutputType { kInt32, kInt64 };

/// How sequences are laid out: one after another (`row_length` 0), or each in a row of `row_length`
/// tokens, filled up with `pad_id`.
struct TokenLayout {
  std::int64_t row_length;
  std::int64_t pad_id;
};

/// Copies the tokens of `slices`, which end before `file_end`, into `output` of `output_size` wider
/// integers. Returns the index of the first slice with a token that is negative or above
/// `max_token`, or `num_slices`.
std::size_t copy_tokens(const Slice* slices, std::size_t num_slices, const TokenType& type,
                        const std::byte* file_end, std::uint64_t max_token, TokenLayout layout,
                        OutputType output_type, void* output, std::size_t output_size);

}  // namespace pycat
