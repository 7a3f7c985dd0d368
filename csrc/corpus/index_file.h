#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>

#include "base/mapped_file.h"
#include "corpus/index_format.h"

namespace pycat {

/// A mapped `.idx` file: where each sequence lies in the `.bin` file.
///
/// The constructor verifies the header and the file's size against it. verify_entries() must have
/// passed before lengths and pointers are trusted.
class IndexFile {
 public:
  IndexFile(const std::filesystem::path& path, std::optional<Layout> layout);

  const MappedFile& file() const noexcept { return file_; }
  Layout layout() const noexcept { return layout_; }
  const TokenType& token_type() const noexcept { return token_type_; }
  std::uint64_t num_sequences() const noexcept { return num_sequences_; }

  /// Throws CorpusError unless Megatron's documents rise over all sequences, every length is at
  /// least 1, every pointer the sum of the lengths before it, and their sum the size of the `.bin`
  /// file. Splits the work over threads.
  void verify_entries(const MappedFile& tokens) const;

  const std::byte* length_address(std::uint64_t sequence) const noexcept {
    return lengths_ + kLengthBytes * sequence;
  }
  const std::byte* pointer_address(std::uint64_t sequence) const noexcept {
    return pointers_ + kPointerBytes * sequence;
  }
  std::int32_t length(std::uint64_t sequence) const noexcept {
    return load<std::int32_t>(length_address(sequence));
  }
  std::uint64_t pointer(std::uint64_t sequence) const noexcept {
    return load<std::uint64_t>(pointer_address(sequence));
  }

 private:
  void verify_magic() const;
  void read_counts();
  void choose_layout(std::optional<Layout> layout);
  void verify_documents() const;
  std::uint64_t first_bad_entry(std::uint64_t begin, std::uint64_t end,
                                std::uint64_t tokens_bytes) const noexcept;
  [[noreturn]] void refuse_entry(std::uint64_t sequence, const MappedFile& tokens) const;
  std::uint64_t megatron_bytes(std::uint64_t num_documents) const noexcept;

  MappedFile file_;
  Layout layout_{};
  TokenType token_type_{};
  std::uint64_t num_sequences_ = 0;
  std::uint64_t num_documents_ = 0;  // in Megatron's layout
  const std::byte* lengths_ = nullptr;
  const std::byte* pointers_ = nullptr;
};

}  // namespace pycat
