#pragma once

#include <cstdint>

namespace pycat {

/// Mixes every bit of `x` into every bit of the result: the finaliser of SplitMix64 (Steele, Lea
/// and Flood 2014).
constexpr std::uint64_t mix_bits(std::uint64_t x) noexcept {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// A 64-bit fingerprint of a sequence of numbers. It is not cryptographic.
class Hash {
 public:
  constexpr void add(std::uint64_t number) noexcept {
    state_ = mix_bits(state_ + 0x9E3779B97F4A7C15u) ^ number;
  }
  constexpr std::uint64_t value() const noexcept { return mix_bits(state_); }

 private:
  std::uint64_t state_ = 0;
};

}  // namespace pycat
