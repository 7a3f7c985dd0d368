#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "base/mapped_file.h"
#include "corpus/block_checksums.h"
#include "corpus/copy_tokens.h"
#include "corpus/index_file.h"

namespace pycat {

/// One memory-mapped MMIDIDX pair `prefix.idx` + `prefix.bin`, in fairseq's or Megatron's layout.
///
/// All of the index is verified before anything is read: in the constructor, or on the first use if
/// that takes longer than a millisecond. Const methods are thread-safe.
///
/// Given a file of block checksums, each block of the token file is compared with its own before a
/// token of it is first read.
class IndexedFile {
 public:
  IndexedFile(const std::filesystem::path& prefix, std::optional<std::int64_t> vocab_size,
              std::optional<Layout> layout,
              const std::optional<std::filesystem::path>& checksums = std::nullopt);

  const std::filesystem::path& prefix() const noexcept { return prefix_; }
  const TokenType& token_type() const noexcept { return index_.token_type(); }
  Layout layout() const noexcept { return index_.layout(); }
  const std::optional<std::int64_t>& vocab_size() const noexcept { return vocab_size_; }
  std::uint64_t num_sequences() const noexcept { return index_.num_sequences(); }
  std::uint64_t num_tokens() const noexcept { return tokens_.size() / token_type().num_bytes; }

  /// Verifies the entries of the index unless they have been verified.
  void require_verified() const;
  /// Throws std::out_of_range unless all `ids` are sequences of this file.
  void require_ids(const std::int64_t* ids, std::size_t num_ids) const;
  /// Throws CorpusError if either file changed since it was opened.
  void require_unchanged() const;
  /// Verifies the index, all blocks and all tokens, even if they have been verified before. With an
  /// `eos_id`, every sequence must end with it.
  void verify(std::optional<std::int64_t> eos_id) const;

  /// Identities of the index and the token file as they were opened.
  std::array<MappedFile::Identity, 2> identity() const noexcept {
    return {index_.file().identity(), tokens_.identity()};
  }

  /// The verified lengths, int32 (num_sequences(),), not aligned in memory.
  const std::byte* lengths() const;
  std::int32_t length(std::uint64_t sequence) const noexcept { return index_.length(sequence); }
  /// Where the tokens of one sequence lie. Throws std::out_of_range if there is no such sequence.
  Slice locate(std::int64_t id) const;

  void prefetch_entry(std::int64_t id) const noexcept;
  /// Appends to `slices` where the sequences `ids` lie. Reads each id once, so that a thread that
  /// changes it meanwhile cannot make copy() write out of bounds.
  void locate(const std::int64_t* ids, std::size_t num_ids, std::vector<Slice>& slices) const;
  /// Writes the tokens of `slices`. Throws CorpusError if a file changed before they were written,
  /// or if a token is outside of the vocabulary.
  void copy(const std::vector<Slice>& slices, TokenLayout layout, OutputType output_type,
            void* output, std::size_t output_size) const;

 private:
  struct BadToken {
    std::int32_t place;
    std::int64_t number;
  };

  void open_checksums(const std::filesystem::path& path);
  /// Compares the blocks that hold these tokens with their checksums, unless they were compared.
  void require_blocks(const Slice& slice) const {
    if (!block_is_right_) return;
    const auto begin = static_cast<std::uint64_t>(slice.tokens - tokens_.data());
    const std::uint64_t num_bytes =
        static_cast<std::uint64_t>(slice.length) * token_type().num_bytes;
    const std::uint64_t last = (begin + num_bytes - 1) / kBlockBytes;
    for (std::uint64_t block = begin / kBlockBytes; block <= last; ++block) {
      if (!block_is_right_[block].load(std::memory_order_relaxed)) compare_block(block);
    }
  }
  bool matches(std::uint64_t block) const noexcept;
  void compare_block(std::uint64_t block) const;
  [[noreturn]] void refuse_block(std::uint64_t block) const;
  void verify_blocks() const;
  std::optional<Slice> slice(std::uint64_t sequence) const noexcept;
  std::optional<BadToken> first_bad_token(const Slice& slice) const noexcept;
  std::int64_t last_token(const Slice& slice) const noexcept;
  [[noreturn]] void refuse_slice(std::uint64_t sequence) const;
  [[noreturn]] void refuse_id(std::int64_t id, std::size_t i) const;
  [[noreturn]] void refuse_token(const Slice& slice) const;
  [[noreturn]] void refuse_end(const Slice& slice, std::int64_t eos_id) const;
  std::uint64_t max_token() const noexcept;

  std::filesystem::path prefix_;
  std::optional<std::int64_t> vocab_size_;
  IndexFile index_;
  MappedFile tokens_;
  MappedFile checksums_;
  // Null without checksums.
  std::unique_ptr<std::atomic<bool>[]> block_is_right_;
  mutable std::atomic<bool> verified_{false};
};

/// Throws CorpusError unless both files hold equally many sequences.
void require_pairs(const IndexedFile& src, const IndexedFile& tgt);

/// The sum of the lengths of slices, and the longest length.
struct Extent {
  std::int32_t num_tokens;
  std::int32_t longest;
};
/// Throws std::invalid_argument if the sum is 2^31 or more.
Extent measure(const std::vector<Slice>& slices);

}  // namespace pycat
