#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "base/hash.h"

namespace pycat {

/// A keyed permutation of [0, size), computed for each number without a table.
///
/// A Feistel network (Luby and Rackoff 1988) permutes the numbers below the next power of two. A
/// result of `size` or more is permuted again until it is below `size`: fewer than two rounds on
/// average.
class Permutation {
 public:
  Permutation(std::uint64_t key, std::uint64_t size) noexcept : size_(size) {
    while (low_bits_ + high_bits_ < 63 && (std::uint64_t{1} << (low_bits_ + high_bits_)) < size) {
      ++(low_bits_ > high_bits_ ? high_bits_ : low_bits_);
    }
    low_mask_ = (std::uint64_t{1} << low_bits_) - 1;
    high_mask_ = (std::uint64_t{1} << high_bits_) - 1;
    for (std::uint64_t& round_key : keys_) {
      key = mix_bits(key + 0x9E3779B97F4A7C15u);
      round_key = key;
    }
  }

  std::uint64_t operator()(std::uint64_t number) const noexcept {
    if (size_ < 2) return number;
    do {
      number = permute_once(number);
    } while (number >= size_);
    return number;
  }

  /// Writes the images of the `count` numbers from `begin` on, each plus `offset`. A block of
  /// numbers is permuted before any is compared with `size`: number by number, mispredicted
  /// branches would take half of the time.
  void apply(std::uint64_t begin, std::uint64_t count, std::uint64_t offset,
             std::int64_t* output) const noexcept {
    constexpr std::uint64_t kBlock = 64;
    std::array<std::uint64_t, kBlock> numbers;
    while (count > 0) {
      const std::uint64_t num = std::min(count, kBlock);
      for (std::uint64_t i = 0; i < num; ++i) numbers[i] = permute_once(begin + i);
      for (std::uint64_t i = 0; i < num; ++i) {
        if (numbers[i] >= size_) numbers[i] = (*this)(numbers[i]);
        output[i] = static_cast<std::int64_t>(offset + numbers[i]);
      }
      begin += num;
      count -= num;
      output += num;
    }
  }

 private:
  std::uint64_t permute_once(std::uint64_t number) const noexcept {
    std::uint64_t low = number & low_mask_;
    std::uint64_t high = number >> low_bits_;
    for (std::size_t round = 0; round < keys_.size(); round += 2) {
      high ^= scramble(low, keys_[round]) & high_mask_;
      low ^= scramble(high, keys_[round + 1]) & low_mask_;
    }
    return high << low_bits_ | low;
  }

  static std::uint64_t scramble(std::uint64_t half, std::uint64_t key) noexcept {
    const std::uint64_t product = (half ^ key) * 0x9E3779B97F4A7C15u;
    return product >> 32 ^ product >> 15;
  }

  std::uint64_t size_;
  unsigned low_bits_ = 0;
  unsigned high_bits_ = 0;
  std::uint64_t low_mask_ = 0;
  std::uint64_t high_mask_ = 0;
  std::array<std::uint64_t, 6> keys_{};
};

}  // namespace pycat
