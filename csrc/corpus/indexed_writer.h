#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string_view>

#include "base/temporary_file.h"
#include "corpus/index_format.h"

namespace pycat {

/// Writes `prefix.bin` and `prefix.idx` in fairseq's layout, with memory that does not grow with
/// the number of sequences. Both files appear on close(), or neither does. Thread-safe.
class IndexedWriter {
 public:
  IndexedWriter(std::filesystem::path prefix, std::string_view dtype);

  /// Appends `num_sequences` packed sequences. Any failure removes the temporaries.
  void append(const std::int32_t* tokens, std::size_t num_tokens, const std::int32_t* lengths,
              std::size_t num_sequences);
  void close();
  void abort();

 private:
  enum class State { kOpen, kClosed, kAborted, kFailed };

  template <typename Action>
  void or_fail(Action action);
  void remove_temporaries();
  void verify(const std::int32_t* tokens, std::size_t num_tokens, const std::int32_t* lengths,
              std::size_t num_sequences) const;
  void append_tokens(const std::int32_t* tokens, std::size_t num_tokens);
  void write_index();
  void publish();

  std::mutex mutex_;
  std::filesystem::path prefix_;
  TokenType token_type_;
  std::optional<TemporaryFile> tokens_file_;
  // append() writes lengths to their final place; close() adds the pointers and the header.
  std::optional<TemporaryFile> index_file_;
  std::uint64_t num_sequences_ = 0;
  State state_ = State::kOpen;
};

}  // namespace pycat
