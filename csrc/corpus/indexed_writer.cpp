#include "corpus/indexed_writer.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace pycat {
namespace {

constexpr std::size_t kChunk = 8192;  // values converted at a time

TokenType writable_type(std::string_view dtype) {
  for (const TokenType& type : kTokenTypes) {
    if (type.name == dtype && (dtype == "uint16" || dtype == "int32")) return type;
  }
  throw std::invalid_argument("dtype is '" + std::string(dtype) +
                              "', expected 'uint16' or 'int32'");
}

/// Names the place of token `position` of the packed tokens, such as "sequence 3, token 17".
std::string place(std::size_t position, const std::int32_t* lengths) {
  std::size_t sequence = 0;
  while (position >= static_cast<std::size_t>(lengths[sequence])) {
    position -= static_cast<std::size_t>(lengths[sequence++]);
  }
  return "sequence " + std::to_string(sequence) + ", token " + std::to_string(position);
}

}  // namespace

IndexedWriter::IndexedWriter(std::filesystem::path prefix, std::string_view dtype)
    : prefix_(std::move(prefix)), token_type_(writable_type(dtype)) {
  tokens_file_.emplace(prefix_.native() + ".bin");
  index_file_.emplace(prefix_.native() + ".idx");
  const std::array<std::byte, kHeaderBytes> header{};
  index_file_->append(header.data(), header.size());
}

void IndexedWriter::append(const std::int32_t* tokens, std::size_t num_tokens,
                           const std::int32_t* lengths, std::size_t num_sequences) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (state_ != State::kOpen) {
    throw std::invalid_argument(prefix_.string() +
                                ": append() after close(), abort() or a failure; use a new "
                                "IndexedWriter");
  }
  or_fail([&] {
    verify(tokens, num_tokens, lengths, num_sequences);
    append_tokens(tokens, num_tokens);
    index_file_->append(lengths, num_sequences * kLengthBytes);
    num_sequences_ += num_sequences;
  });
}

void IndexedWriter::close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (state_ == State::kFailed) {
    throw std::invalid_argument(prefix_.string() +
                                ": close() after a failure, nothing was written; use a new "
                                "IndexedWriter");
  }
  if (state_ != State::kOpen) return;
  or_fail([&] {
    if (num_sequences_ == 0) {
      throw std::invalid_argument(prefix_.string() +
                                  ": no sequences were appended, expected at least one, since "
                                  "an empty corpus cannot be opened");
    }
    write_index();
    publish();
  });
  state_ = State::kClosed;
}

void IndexedWriter::abort() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (state_ != State::kOpen) return;
  state_ = State::kAborted;
  remove_temporaries();
}

template <typename Action>
void IndexedWriter::or_fail(Action action) {
  try {
    action();
  } catch (...) {
    state_ = State::kFailed;
    remove_temporaries();
    throw;
  }
}

void IndexedWriter::remove_temporaries() {
  tokens_file_.reset();
  index_file_.reset();
}

void IndexedWriter::verify(const std::int32_t* tokens, std::size_t num_tokens,
                           const std::int32_t* lengths, std::size_t num_sequences) const {
  std::size_t sum = 0;
  for (std::size_t i = 0; i < num_sequences; ++i) {
    if (lengths[i] < 1) {
      throw std::invalid_argument("lengths[" + std::to_string(i) + "] is " +
                                  std::to_string(lengths[i]) + ", expected at least 1");
    }
    sum += static_cast<std::size_t>(lengths[i]);
  }
  if (sum != num_tokens) {
    throw std::invalid_argument("lengths sum to " + std::to_string(sum) + ", expected " +
                                std::to_string(num_tokens) + ", the number of tokens");
  }
  const std::int32_t max_token = token_type_.num_bytes == 2
                                     ? std::numeric_limits<std::uint16_t>::max()
                                     : std::numeric_limits<std::int32_t>::max();
  const auto* bad = std::find_if(tokens, tokens + num_tokens, [max_token](std::int32_t token) {
    return token < 0 || token > max_token;
  });
  if (bad != tokens + num_tokens) {
    const auto position = static_cast<std::size_t>(bad - tokens);
    throw std::invalid_argument("tokens[" + std::to_string(position) + "] (" +
                                place(position, lengths) + ") is " + std::to_string(*bad) +
                                ", expected 0.." + std::to_string(max_token) + " for " +
                                std::string(token_type_.name));
  }
}

void IndexedWriter::append_tokens(const std::int32_t* tokens, std::size_t num_tokens) {
  if (token_type_.num_bytes == sizeof(std::int32_t)) {
    tokens_file_->append(tokens, num_tokens * sizeof(std::int32_t));
    return;
  }
  std::array<std::uint16_t, kChunk> narrow;
  for (std::size_t begin = 0; begin < num_tokens; begin += kChunk) {
    const std::size_t count = std::min(kChunk, num_tokens - begin);
    std::transform(tokens + begin, tokens + begin + count, narrow.begin(),
                   [](std::int32_t token) { return static_cast<std::uint16_t>(token); });
    tokens_file_->append(narrow.data(), count * sizeof(std::uint16_t));
  }
}

void IndexedWriter::write_index() {
  index_file_->flush();
  std::array<std::int32_t, kChunk> lengths;
  std::array<std::uint64_t, kChunk> pointers;
  std::uint64_t pointer = 0;
  for (std::uint64_t begin = 0; begin < num_sequences_; begin += kChunk) {
    const auto count =
        static_cast<std::size_t>(std::min<std::uint64_t>(kChunk, num_sequences_ - begin));
    index_file_->read_at(kHeaderBytes + begin * kLengthBytes, lengths.data(), count * kLengthBytes);
    for (std::size_t i = 0; i < count; ++i) {
      pointers[i] = pointer;
      pointer += static_cast<std::uint64_t>(lengths[i]) * token_type_.num_bytes;
    }
    index_file_->append(pointers.data(), count * kPointerBytes);
  }

  std::array<std::byte, kHeaderBytes> header;
  std::memcpy(header.data(), kIndexMagic, kMagicBytes);
  std::memcpy(header.data() + kVersionOffset, &kIndexVersion, sizeof kIndexVersion);
  std::memcpy(header.data() + kTypeOffset, &token_type_.code, sizeof token_type_.code);
  std::memcpy(header.data() + kCountOffset, &num_sequences_, sizeof num_sequences_);
  index_file_->write_at(0, header.data(), header.size());
}

void IndexedWriter::publish() {
  FolderSync folder(prefix_.parent_path());
  tokens_file_->sync();
  index_file_->sync();

  // A crash between the renames must not leave the old index beside the new tokens: if their sizes
  // agreed, they would be read as one corpus. Without an index, nothing can be opened.
  const std::filesystem::path index_path = prefix_.native() + ".idx";
  if (::unlink(index_path.c_str()) != 0 && errno != ENOENT) throw FileError(errno, index_path);
  tokens_file_->publish();
  index_file_->publish();
  folder.sync();
  remove_temporaries();
}

}  // namespace pycat
