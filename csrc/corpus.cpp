#include "corpus.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

namespace pycat {
namespace {

constexpr std::uint64_t kMaxTokensPerGather = std::numeric_limits<std::int32_t>::max();
// Above this no file system could hold the index, and below it sizes cannot overflow.
constexpr std::uint64_t kMaxSequences = std::uint64_t{1} << 56;
// Random sequences cost a cache and a page table miss each: asking this many early halves the time
// of a batch (29 to 13 us for 4,096 tokens out of 200 MB; 8 and 32 do as well).
constexpr std::size_t kPrefetchAhead = 16;
constexpr char kRebuild[] = "; the file is damaged: rebuild it with 'pycat tokenize'";

std::string text(std::uint64_t number) { return std::to_string(number); }

MappedFile map_file(const std::filesystem::path& path) {
  try {
    return MappedFile(path);
  } catch (const FileError& error) {
    if (error.code() != std::errc::no_such_file_or_directory) throw;
    throw CorpusError(path,
                      "does not exist; give the path without '.idx' or '.bin', or make the "
                      "corpus with 'pycat tokenize'");
  }
}

bool begins_with(const MappedFile& file, const void* bytes, std::size_t num_bytes) {
  return file.size() >= num_bytes && std::memcmp(file.data(), bytes, num_bytes) == 0;
}

/// Megatron puts a document count before the lengths and the documents after the pointers; only
/// the size tells its files from fairseq's. Multimodal files end in one more byte a sequence.
bool is_megatron_layout(const MappedFile& index, std::uint64_t num_sequences) {
  if (index.size() < kHeaderBytes + 8) return false;
  const auto num_documents = load<std::uint64_t>(index.data() + kHeaderBytes);
  if (num_documents > kMaxSequences) return false;
  const std::uint64_t num_bytes =
      kHeaderBytes + 8 + kEntryBytes * num_sequences + 8 * num_documents;
  return index.size() == num_bytes || index.size() == num_bytes + num_sequences;
}

/// Widens `length` tokens to int32 and returns the largest, negative ones counting as huge.
template <typename T>
std::uint64_t widen(const std::byte* from, std::int32_t length, std::int32_t* to) {
  std::make_unsigned_t<T> largest = 0;
  for (std::int32_t i = 0; i < length; ++i) {
    const T token = load<T>(from + static_cast<std::size_t>(i) * sizeof(T));
    largest = std::max(largest, static_cast<std::make_unsigned_t<T>>(token));
    to[i] = static_cast<std::int32_t>(token);
  }
  return largest;
}

}  // namespace

IndexedFile::IndexedFile(std::filesystem::path prefix, std::optional<std::int64_t> vocab_size)
    : prefix_(std::move(prefix)),
      index_path_(prefix_.native() + ".idx"),
      tokens_path_(prefix_.native() + ".bin"),
      vocab_size_(vocab_size),
      index_(map_file(index_path_)) {
  if (vocab_size_ && *vocab_size_ < 1) {
    throw std::invalid_argument("vocab_size is " + std::to_string(*vocab_size_) +
                                ", expected at least 1");
  }
  read_header();
  tokens_ = map_file(tokens_path_);
  verify_entries();
}

void IndexedFile::read_header() {
  for (const char* magic : {"TNTIDX\0", "HUFFIDX"}) {
    if (begins_with(index_, magic, 8)) {
      throw CorpusError(index_path_, std::string("is a ") + magic +
                                         " file, expected MMIDIDX; binarise the text again with "
                                         "'fairseq-preprocess --dataset-impl mmap' or "
                                         "'pycat tokenize'");
    }
  }
  if (index_.size() >= kMagicBytes && !begins_with(index_, kIndexMagic, kMagicBytes)) {
    throw CorpusError(index_path_,
                      "does not begin with the magic MMIDIDX, so it is no corpus index; give the "
                      "prefix of a corpus made with 'pycat tokenize'");
  }
  if (index_.size() < kHeaderBytes) {
    throw CorpusError(index_path_, "has " + text(index_.size()) +
                                       " bytes, expected at least the header's " +
                                       text(kHeaderBytes) + kRebuild);
  }

  const auto version = load<std::uint64_t>(index_.data() + kVersionOffset);
  if (version != kIndexVersion) {
    throw CorpusError(index_path_, "has version " + text(version) + ", expected " +
                                       text(kIndexVersion) +
                                       "; it is damaged, or written by a newer format: rebuild it "
                                       "with 'pycat tokenize'");
  }
  const auto code = load<std::uint8_t>(index_.data() + kTypeOffset);
  const auto type = std::find_if(kTokenTypes.begin(), kTokenTypes.end(),
                                 [code](const TokenType& known) { return known.code == code; });
  if (type == kTokenTypes.end()) {
    throw CorpusError(index_path_,
                      "has dtype code " + text(code) +
                          ", expected an integer type (1, 2, 3, 4, 5, 8, 9 or 10); it is damaged, "
                          "or holds no token ids: rebuild it with 'pycat tokenize'");
  }
  token_type_ = *type;

  num_sequences_ = load<std::uint64_t>(index_.data() + kCountOffset);
  if (num_sequences_ == 0) {
    throw CorpusError(index_path_, "holds no sequences; tokenize a text of at least one line");
  }
  if (num_sequences_ > kMaxSequences) {
    throw CorpusError(index_path_, "says it holds " + text(num_sequences_) +
                                       " sequences, expected at most " + text(kMaxSequences) +
                                       kRebuild);
  }
  const std::uint64_t num_bytes = kHeaderBytes + kEntryBytes * num_sequences_;
  if (index_.size() == num_bytes) return;
  if (is_megatron_layout(index_, num_sequences_)) {
    throw CorpusError(index_path_,
                      "has the Megatron layout, not read yet; binarise the text with "
                      "'pycat tokenize' or 'fairseq-preprocess --dataset-impl mmap'");
  }
  throw CorpusError(index_path_, "has " + text(index_.size()) + " bytes, expected " +
                                     text(num_bytes) + " for its " + text(num_sequences_) +
                                     " sequences" + kRebuild);
}

void IndexedFile::verify_entries() const {
  if (tokens_.size() == 0) throw CorpusError(tokens_path_, std::string("is empty") + kRebuild);

  // Stays within the size of a file, so that no sum below can overflow.
  std::uint64_t end = 0;
  for (std::uint64_t i = 0; i < num_sequences_; ++i) {
    if (length(i) < 1) {
      throw CorpusError(index_path_, "length of sequence " + text(i) + " is " +
                                         std::to_string(length(i)) + ", expected at least 1" +
                                         kRebuild);
    }
    if (pointer(i) != end) {
      // Signed in the file: a negative one should be shown as such.
      throw CorpusError(index_path_, "pointer of sequence " + text(i) + " is " +
                                         std::to_string(static_cast<std::int64_t>(pointer(i))) +
                                         ", expected " + text(end) +
                                         " (the sum of the lengths before it)" + kRebuild);
    }
    end += static_cast<std::uint64_t>(length(i)) * token_type_.num_bytes;
    if (end > tokens_.size()) {
      throw CorpusError(tokens_path_, "sequence " + text(i) + " should end at byte " + text(end) +
                                          " but the file ends at " + text(tokens_.size()) +
                                          kRebuild);
    }
  }
  if (end != tokens_.size()) {
    throw CorpusError(tokens_path_, "has " + text(tokens_.size()) + " bytes, expected " +
                                        text(end) + " (the sum of all lengths)" + kRebuild);
  }
}

const std::byte* IndexedFile::length_address(std::uint64_t sequence) const noexcept {
  return index_.data() + kHeaderBytes + kLengthBytes * sequence;
}

const std::byte* IndexedFile::pointer_address(std::uint64_t sequence) const noexcept {
  return length_address(num_sequences_) + kPointerBytes * sequence;
}

std::int32_t IndexedFile::length(std::uint64_t sequence) const noexcept {
  return load<std::int32_t>(length_address(sequence));
}

std::uint64_t IndexedFile::pointer(std::uint64_t sequence) const noexcept {
  return load<std::uint64_t>(pointer_address(sequence));
}

void IndexedFile::prefetch_entry(std::int64_t id) const noexcept {
  const auto sequence = static_cast<std::uint64_t>(id);
  if (sequence >= num_sequences_) return;  // locate() refuses it in its turn
  __builtin_prefetch(length_address(sequence));
  __builtin_prefetch(pointer_address(sequence));
}

void IndexedFile::copy_lengths(std::int32_t* lengths) const {
  std::memcpy(lengths, length_address(0), kLengthBytes * num_sequences_);
}

IndexedFile::Slices IndexedFile::locate(const std::int64_t* ids, std::size_t num_ids) const {
  std::vector<Slice> slices;
  slices.reserve(num_ids);
  std::uint64_t num_tokens = 0;
  for (std::size_t i = 0; i < num_ids; ++i) {
    if (i + kPrefetchAhead < num_ids) prefetch_entry(ids[i + kPrefetchAhead]);
    const std::int64_t id = ids[i];
    const auto sequence = static_cast<std::uint64_t>(id);
    if (sequence >= num_sequences_) {  // negative ids are huge
      throw std::out_of_range("ids[" + text(i) + "] is " + std::to_string(id) +
                              ", expected 0 or more and below " + text(num_sequences_) +
                              ", the number of sequences");
    }
    const Slice slice{sequence, pointer(sequence), length(sequence)};
    // Verified on opening, but the file may have been rewritten in place since.
    if (slice.length < 1 || slice.begin_byte > tokens_.size() ||
        static_cast<std::uint64_t>(slice.length) >
            (tokens_.size() - slice.begin_byte) / token_type_.num_bytes) {
      throw CorpusError(index_path_, "sequence " + text(sequence) +
                                         " lies outside the token file; the index has changed "
                                         "since it was opened: open it again");
    }
    num_tokens += static_cast<std::uint64_t>(slice.length);
    if (num_tokens > kMaxTokensPerGather) {
      throw std::invalid_argument("the sequences up to ids[" + text(i) + "] hold " +
                                  text(num_tokens) + " tokens, expected at most " +
                                  text(kMaxTokensPerGather) + "; gather fewer ids a call");
    }
    slices.push_back(slice);
  }
  return {std::move(slices), static_cast<std::int32_t>(num_tokens)};
}

void IndexedFile::copy_tokens(const std::vector<Slice>& slices, std::int32_t* tokens,
                              std::int32_t* cu_seqlens) const {
  switch (token_type_.code) {
    case 1:
      return copy_tokens_as<std::uint8_t>(slices, tokens, cu_seqlens);
    case 2:
      return copy_tokens_as<std::int8_t>(slices, tokens, cu_seqlens);
    case 3:
      return copy_tokens_as<std::int16_t>(slices, tokens, cu_seqlens);
    case 4:
      return copy_tokens_as<std::int32_t>(slices, tokens, cu_seqlens);
    case 5:
      return copy_tokens_as<std::int64_t>(slices, tokens, cu_seqlens);
    case 8:
      return copy_tokens_as<std::uint16_t>(slices, tokens, cu_seqlens);
    case 9:
      return copy_tokens_as<std::uint32_t>(slices, tokens, cu_seqlens);
    case 10:
      return copy_tokens_as<std::uint64_t>(slices, tokens, cu_seqlens);
  }
}

template <typename T>
void IndexedFile::copy_tokens_as(const std::vector<Slice>& slices, std::int32_t* tokens,
                                 std::int32_t* cu_seqlens) const {
  // Ids must fit int32, and T as well: as unsigned numbers negative ids lie above both.
  const std::uint64_t max_token =
      std::min({static_cast<std::uint64_t>(std::numeric_limits<T>::max()),
                static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max()),
                static_cast<std::uint64_t>(
                    vocab_size_.value_or(std::numeric_limits<std::int64_t>::max()) - 1)});
  std::int32_t end = 0;
  *cu_seqlens = 0;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    if (i + kPrefetchAhead < slices.size()) {
      const Slice& ahead = slices[i + kPrefetchAhead];
      const std::byte* begin = tokens_.data() + ahead.begin_byte;
      __builtin_prefetch(begin);
      __builtin_prefetch(begin + static_cast<std::size_t>(ahead.length) * sizeof(T) - 1);
    }
    const Slice& slice = slices[i];
    const std::byte* from = tokens_.data() + slice.begin_byte;
    if (widen<T>(from, slice.length, tokens + end) > max_token) refuse_token<T>(slice, max_token);
    end += slice.length;
    *++cu_seqlens = end;
  }
}

template <typename T>
void IndexedFile::refuse_token(const Slice& slice, std::uint64_t max_token) const {
  const std::byte* address = tokens_.data() + slice.begin_byte;
  std::int32_t position = 0;
  while (position < slice.length - 1 &&
         static_cast<std::make_unsigned_t<T>>(load<T>(address)) <= max_token) {
    ++position;
    address += sizeof(T);
  }
  throw CorpusError(tokens_path_,
                    "token " + std::to_string(position) + " of sequence " + text(slice.sequence) +
                        " is " + std::to_string(load<T>(address)) +
                        ", expected 0 or more and below " +
                        (vocab_size_ ? std::to_string(*vocab_size_) + ", the vocab_size"
                                     : std::to_string(std::uint64_t{1} << 31)) +
                        "; open it with its own vocabulary, or rebuild it with 'pycat tokenize'");
}

}  // namespace pycat
