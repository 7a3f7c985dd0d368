#include "corpus/block_checksums.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/hash.h"

// The loop is compiled for several instruction sets; the loader chooses one. Under sanitizers it is
// compiled once, because the loader chooses before they are initialised.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12 && \
    !defined(PYCAT_SANITIZED)
#define PYCAT_FOR_EACH_ISA \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PYCAT_FOR_EACH_ISA
#endif

namespace pycat {
namespace {

constexpr std::size_t kLanes = 64;
constexpr std::size_t kRowBytes = kLanes * sizeof(std::uint32_t);
constexpr std::uint32_t kMultiplier = 0x9E3779B1u;  // odd, so that multiplying loses nothing
constexpr unsigned kRotation = 15;

using Lanes = std::array<std::uint32_t, kLanes>;

PYCAT_FOR_EACH_ISA void add_rows(const std::byte* data, std::size_t num_rows,
                                 std::uint32_t* lanes) noexcept {
  // 16 lanes are a vector of AVX-512. Four of them are independent, which hides the latency of
  // multiplying.
  using Vector __attribute__((vector_size(16 * sizeof(std::uint32_t)))) = std::uint32_t;
  Vector state[kLanes / 16];
  std::memcpy(state, lanes, sizeof state);
  for (std::size_t row = 0; row < num_rows; ++row) {
    for (std::size_t i = 0; i < kLanes / 16; ++i) {
      Vector words;
      std::memcpy(&words, data + row * kRowBytes + i * sizeof words, sizeof words);
      const Vector mixed = (state[i] ^ words) * kMultiplier;
      state[i] = (mixed << kRotation) | (mixed >> (32 - kRotation));
    }
  }
  std::memcpy(lanes, state, sizeof state);
}

}  // namespace

std::uint64_t block_checksum(const std::byte* data, std::size_t num_bytes) noexcept {
  Lanes lanes;
  for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = static_cast<std::uint32_t>(mix_bits(i + 1));
  const std::size_t num_rows = num_bytes / kRowBytes;
  add_rows(data, num_rows, lanes.data());
  if (const std::size_t rest = num_bytes % kRowBytes; rest != 0) {
    std::array<std::byte, kRowBytes> last{};
    std::memcpy(last.data(), data + num_rows * kRowBytes, rest);
    add_rows(last.data(), 1, lanes.data());
  }
  Hash hash;
  hash.add(num_bytes);
  for (const std::uint32_t lane : lanes) hash.add(lane);
  return hash.value();
}

}  // namespace pycat
