#pragma once

#include <cstddef>
#include <cstdint>

namespace pycat {

/// Bytes of a block of a token file that has a checksum of its own. A pair that is read alone costs
/// no more than two blocks; the checksums take 8 bytes of each 64 KiB.
constexpr std::size_t kBlockBytes = std::size_t{1} << 16;

constexpr std::uint64_t num_blocks(std::uint64_t num_bytes) noexcept {
  return num_bytes / kBlockBytes + (num_bytes % kBlockBytes != 0);
}

/// A 64-bit checksum of at most kBlockBytes bytes. It is not cryptographic.
///
/// The bytes are taken as little-endian 32-bit words in 64 lanes, the last of them filled up with
/// zeros. Each lane goes through its words by `h = rotate((h ^ word) * odd, 15)`, which maps states
/// one to one: damage within four aligned bytes always changes the checksum. Other damage passes
/// with a chance of about 2^-32 or less. Every machine computes the same value.
std::uint64_t block_checksum(const std::byte* data, std::size_t num_bytes) noexcept;

}  // namespace pycat
