#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "index_format.h"
#include "mapped_file.h"

namespace pycat {

/// One memory-mapped MMIDIDX pair `prefix.idx` + `prefix.bin` in fairseq's layout.
///
/// The constructor verifies all of the index before anything is read through it. Const methods
/// may run on several threads at once.
class IndexedFile {
 public:
  /// Where one sequence lies in the .bin file.
  struct Slice {
    std::uint64_t sequence;
    std::uint64_t begin_byte;
    std::int32_t length;
  };
  struct Slices {
    std::vector<Slice> slices;
    std::int32_t num_tokens;
  };

  IndexedFile(std::filesystem::path prefix, std::optional<std::int64_t> vocab_size);

  const std::filesystem::path& prefix() const noexcept { return prefix_; }
  const TokenType& token_type() const noexcept { return token_type_; }
  std::uint64_t num_sequences() const noexcept { return num_sequences_; }
  std::uint64_t num_tokens() const noexcept { return tokens_.size() / token_type_.num_bytes; }

  /// Writes num_sequences() lengths.
  void copy_lengths(std::int32_t* lengths) const;

  /// Finds the sequences `ids`. Each id is read once, so a thread that changes them meanwhile
  /// cannot make copy_tokens write out of bounds.
  Slices locate(const std::int64_t* ids, std::size_t num_ids) const;

  /// Packs the tokens of `slices` one after another and writes slices + 1 boundaries.
  void copy_tokens(const std::vector<Slice>& slices, std::int32_t* tokens,
                   std::int32_t* cu_seqlens) const;

 private:
  void read_header();
  void verify_entries() const;
  const std::byte* length_address(std::uint64_t sequence) const noexcept;
  const std::byte* pointer_address(std::uint64_t sequence) const noexcept;
  std::int32_t length(std::uint64_t sequence) const noexcept;
  std::uint64_t pointer(std::uint64_t sequence) const noexcept;
  void prefetch_entry(std::int64_t id) const noexcept;

  template <typename T>
  void copy_tokens_as(const std::vector<Slice>& slices, std::int32_t* tokens,
                      std::int32_t* cu_seqlens) const;
  template <typename T>
  [[noreturn]] void refuse_token(const Slice& slice, std::uint64_t max_token) const;

  std::filesystem::path prefix_;
  std::filesystem::path index_path_;
  std::filesystem::path tokens_path_;
  std::optional<std::int64_t> vocab_size_;
  MappedFile index_;
  MappedFile tokens_;
  TokenType token_type_{};
  std::uint64_t num_sequences_ = 0;
};

}  // namespace pycat
