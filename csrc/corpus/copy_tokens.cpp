#include "corpus/copy_tokens.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "base/int_math.h"

// The copying loop is compiled for several instruction sets; the loader chooses one. Under
// sanitizers it is compiled once, because the loader chooses before they are initialised.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12 && \
    !defined(PYCAT_SANITIZED)
#define PYCAT_FOR_EACH_ISA \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PYCAT_FOR_EACH_ISA
#endif

namespace pycat {
namespace {

// Each sequence costs a cache miss and a page table miss. Prefetching this many sequences ahead
// halves the time of a batch (4,096 tokens out of 200 MB: 29 us without, 13 us with; 8 and 32 are
// as fast).
constexpr std::size_t kPrefetchAhead = 16;
constexpr std::size_t kBlock = 16;  // tokens

template <typename Stored, typename Output>
struct Job {
  const Slice* slices;
  std::size_t num_slices;
  const std::byte* file_end;
  std::uint64_t max_token;
  TokenLayout layout;
  Output* output;
  Output* output_end;
};

/// The largest token so far in each place of a block, as unsigned numbers.
template <typename Stored>
using Maxima __attribute__((vector_size(kBlock * sizeof(Stored)))) = std::make_unsigned_t<Stored>;

/// Writes a block of tokens, whose width doubles step by step: GCC compiles a step of more than two
/// to scalar code (16 tokens from 2 to 8 bytes: 60 instructions instead of 6).
template <typename Stored, typename Output, typename Tokens>
__attribute__((always_inline)) inline void widen_block(const Tokens& tokens, Output* to) noexcept {
  using Twice = std::conditional_t<sizeof(Stored) == 1, std::int16_t, std::int32_t>;
  if constexpr (sizeof(Output) > 2 * sizeof(Stored)) {
    using Number = std::conditional_t<std::is_signed_v<Stored>, Twice, std::make_unsigned_t<Twice>>;
    using Wider __attribute__((vector_size(kBlock * sizeof(Number)))) = Number;
    const Wider wider = __builtin_convertvector(tokens, Wider);
    widen_block<Number>(wider, to);
  } else {
    using Widened __attribute__((vector_size(kBlock * sizeof(Output)))) = Output;
    const Widened widened = __builtin_convertvector(tokens, Widened);
    std::memcpy(to, &widened, sizeof widened);
  }
}

/// Widens `length` tokens in whole blocks, the last of which may read and write past them.
template <typename Stored, typename Output>
__attribute__((always_inline)) inline void widen_blocks(const std::byte* from, std::size_t length,
                                                        Output* to,
                                                        Maxima<Stored>& maxima) noexcept {
  using Tokens __attribute__((vector_size(kBlock * sizeof(Stored)))) = Stored;
  for (std::size_t begin = 0; begin < length; begin += kBlock) {
    Tokens tokens;
    std::memcpy(&tokens, from + begin * sizeof(Stored), sizeof tokens);
    Maxima<Stored> numbers;
    std::memcpy(&numbers, &tokens, sizeof tokens);
    maxima = numbers > maxima ? numbers : maxima;
    widen_block<Stored>(tokens, to + begin);
  }
}

/// Widens exactly `length` tokens and returns the largest as an unsigned number.
template <typename Stored, typename Output>
std::make_unsigned_t<Stored> widen(const std::byte* from, std::size_t length, Output* to) noexcept {
  std::make_unsigned_t<Stored> largest = 0;
  for (std::size_t i = 0; i < length; ++i) {
    const Stored token = load<Stored>(from + i * sizeof(Stored));
    largest = std::max(largest, static_cast<std::make_unsigned_t<Stored>>(token));
    to[i] = static_cast<Output>(token);
  }
  return largest;
}

/// Copies again, without reading past a sequence, up to the first slice with a bad token. It checks
/// what it writes, so a file that is rewritten in between cannot pass unchecked.
template <typename Stored, typename Output>
std::size_t copy_exactly(const Job<Stored, Output>& job) noexcept {
  Output* to = job.output;
  for (std::size_t i = 0; i < job.num_slices; ++i) {
    const auto length = static_cast<std::size_t>(job.slices[i].length);
    if (widen<Stored, Output>(job.slices[i].tokens, length, to) > job.max_token) return i;
    to += job.layout.row_length == 0 ? static_cast<std::int64_t>(length) : job.layout.row_length;
  }
  return job.num_slices;
}

template <typename Stored, typename Output>
__attribute__((always_inline)) inline std::size_t copy(const Job<Stored, Output>& job) noexcept {
  Maxima<Stored> maxima{};
  Output* to = job.output;
  for (std::size_t i = 0; i < job.num_slices; ++i) {
    if (i + kPrefetchAhead < job.num_slices) {
      const Slice& ahead = job.slices[i + kPrefetchAhead];
      __builtin_prefetch(ahead.tokens);
      __builtin_prefetch(ahead.tokens + static_cast<std::size_t>(ahead.length) * sizeof(Stored) -
                         1);
    }
    const Slice& slice = job.slices[i];
    const auto length = static_cast<std::size_t>(slice.length);
    const std::size_t in_blocks = round_up(length, kBlock);
    // The last block may write past the sequence; the next sequence or padding overwrites that.
    if (in_blocks * sizeof(Stored) <= static_cast<std::size_t>(job.file_end - slice.tokens) &&
        in_blocks <= static_cast<std::size_t>(job.output_end - to)) {
      widen_blocks<Stored, Output>(slice.tokens, length, to, maxima);
    } else {
      maxima[0] = std::max(maxima[0], widen<Stored, Output>(slice.tokens, length, to));
    }
    if (job.layout.row_length == 0) {
      to += length;
    } else {
      Output* row_end = to + job.layout.row_length;
      std::fill(to + length, row_end, static_cast<Output>(job.layout.pad_id));
      to = row_end;
    }
  }
  std::make_unsigned_t<Stored> largest = 0;
  for (std::size_t i = 0; i < kBlock; ++i) largest = std::max(largest, maxima[i]);
  if (largest <= job.max_token) return job.num_slices;
  // The bad token may belong to a sequence that was not asked for, but lies in the same block.
  return copy_exactly<Stored, Output>(job);
}

#define PYCAT_COPY(Stored, Output)                                              \
  PYCAT_FOR_EACH_ISA std::size_t run(const Job<Stored, Output>& job) noexcept { \
    return copy<Stored, Output>(job);                                           \
  }
#define PYCAT_COPY_TO_EACH(Stored) \
  PYCAT_COPY(Stored, std::int32_t) \
  PYCAT_COPY(Stored, std::int64_t)

PYCAT_COPY_TO_EACH(std::uint8_t)
PYCAT_COPY_TO_EACH(std::int8_t)
PYCAT_COPY_TO_EACH(std::int16_t)
PYCAT_COPY_TO_EACH(std::int32_t)
PYCAT_COPY_TO_EACH(std::int64_t)
PYCAT_COPY_TO_EACH(std::uint16_t)
PYCAT_COPY_TO_EACH(std::uint32_t)
PYCAT_COPY_TO_EACH(std::uint64_t)

}  // namespace

std::size_t copy_tokens(const Slice* slices, std::size_t num_slices, const TokenType& type,
                        const std::byte* file_end, std::uint64_t max_token, TokenLayout layout,
                        OutputType output_type, void* output, std::size_t output_size) {
  const auto copy_as = [&](auto stored) {
    using Stored = decltype(stored);
    // As unsigned numbers, negative ids lie above every valid one of their type.
    const std::uint64_t limit =
        std::min(max_token, static_cast<std::uint64_t>(std::numeric_limits<Stored>::max()));
    const auto run_as = [&](auto* typed_output) {
      return run(Job<Stored, std::remove_pointer_t<decltype(typed_output)>>{
          slices, num_slices, file_end, limit, layout, typed_output, typed_output + output_size});
    };
    return output_type == OutputType::kInt32 ? run_as(static_cast<std::int32_t*>(output))
                                             : run_as(static_cast<std::int64_t*>(output));
  };
  switch (type.code) {
    case 1:
      return copy_as(std::uint8_t{});
    case 2:
      return copy_as(std::int8_t{});
    case 3:
      return copy_as(std::int16_t{});
    case 4:
      return copy_as(std::int32_t{});
    case 5:
      return copy_as(std::int64_t{});
    case 8:
      return copy_as(std::uint16_t{});
    case 9:
      return copy_as(std::uint32_t{});
    default:
      return copy_as(std::uint64_t{});
  }
}

}  // namespace pycat
