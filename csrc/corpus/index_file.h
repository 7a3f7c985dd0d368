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
/// The constructor verifies the header, and the file's size against it. Lengths and pointers may be
/// trusted only after verify_entries() has passed.
class IndexFile {
 public:
  IndexFile(const std::filesystem::path& path, std::optional<Layout> layout);

  const MappedFile& file() const noexcept { return file_; }
  Layout layout() const noexcept { return layout_; }
  const TokenType& token_type() const noexcept { return token_type_; }
  std::uint64_t num_sequences() const noexcept { return num_sequences_; }

  /// Verifies all entries, on all cores. Throws CorpusError unless every length is at least 1,
  /// every pointer is the sum of the lengths before it, the sum of all lengths is the size of the
  /// `.bin` file, and Megatron's documents rise from 0 to the number of sequences.
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
  std::uint64_t num_documents_ = 0;  // Megatron's layout only
  const std::byte* lengths_ = nullptr;
  const std::byte* pointers_ = nullptr;
};

}  // namespace pycat
