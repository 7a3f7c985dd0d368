#include "corpus/indexed_file.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "base/errors.h"
#include "base/parallel.h"

namespace pycat {
namespace {

// Files of at most this many sequences are verified when they are opened. Verifying so many takes
// less than a millisecond.
constexpr std::uint64_t kVerifyOnOpening = 1 << 18;
constexpr std::size_t kPrefetchAhead = 16;
constexpr std::uint64_t kMinSequencesPerThread = 1 << 16;
constexpr std::uint64_t kMinBlocksPerThread = 1 << 8;

std::string text(std::uint64_t number) { return std::to_string(number); }

}  // namespace

IndexedFile::IndexedFile(const std::filesystem::path& prefix,
                         std::optional<std::int64_t> vocab_size, std::optional<Layout> layout,
                         const std::optional<std::filesystem::path>& checksums)
    : prefix_(prefix), vocab_size_(vocab_size), index_(prefix_.native() + ".idx", layout) {
  if (vocab_size_ && *vocab_size_ < 1) {
    throw std::invalid_argument("vocab_size is " + std::to_string(*vocab_size_) +
                                ", expected at least 1");
  }
  try {
    tokens_ = MappedFile(prefix_.native() + ".bin");
  } catch (const FileError& error) {
    if (error.code() != std::errc::no_such_file_or_directory) throw;
    throw CorpusError(prefix_.native() + ".bin",
                      "does not exist; give the path without '.idx' or '.bin', or make the "
                      "corpus with 'pycat tokenize'");
  }
  if (tokens_.size() < num_sequences() * token_type().num_bytes ||
      tokens_.size() % token_type().num_bytes != 0) {
    index_.verify_entries(tokens_);  // its error says what is missing
  }
  if (checksums) open_checksums(*checksums);
  if (num_sequences() <= kVerifyOnOpening) require_verified();
}

void IndexedFile::open_checksums(const std::filesystem::path& path) {
  try {
    checksums_ = MappedFile(path);
  } catch (const FileError& error) {
    if (error.code() != std::errc::no_such_file_or_directory) throw;
    throw CorpusError(
        path, "does not exist; put it back, or delete the folder and run 'pycat tokenize' again");
  }
  const std::uint64_t count = num_blocks(tokens_.size());
  if (checksums_.size() != count * sizeof(std::uint64_t)) {
    throw CorpusError(path, "has " + text(checksums_.size()) + " bytes, expected " +
                                text(count * sizeof(std::uint64_t)) + ", 8 for each block of " +
                                tokens_.path().string() +
                                "; run 'pycat tokenize' again with --overwrite");
  }
  block_is_right_ = std::make_unique<std::atomic<bool>[]>(count);
}

bool IndexedFile::matches(std::uint64_t block) const noexcept {
  const std::uint64_t begin = block * kBlockBytes;
  const std::uint64_t num_bytes = std::min<std::uint64_t>(kBlockBytes, tokens_.size() - begin);
  return block_checksum(tokens_.data() + begin, num_bytes) ==
         load<std::uint64_t>(checksums_.data() + block * sizeof(std::uint64_t));
}

/// Without a lock, threads that find a block unverified all verify it, as in require_verified().
void IndexedFile::compare_block(std::uint64_t block) const {
  if (!matches(block)) refuse_block(block);
  block_is_right_[block].store(true, std::memory_order_relaxed);
}

void IndexedFile::refuse_block(std::uint64_t block) const {
  require_unchanged();
  checksums_.require_unchanged();
  const std::uint64_t begin = block * kBlockBytes;
  throw CorpusError(tokens_.path(),
                    "bytes " + text(begin) + " to " +
                        text(std::min<std::uint64_t>(begin + kBlockBytes, tokens_.size()) - 1) +
                        " do not have the checksum that " + checksums_.path().filename().string() +
                        " records of them; one of the two files is damaged: put it back, or run "
                        "'pycat tokenize' again with --overwrite");
}

void IndexedFile::verify_blocks() const {
  if (!block_is_right_) return;
  const std::uint64_t count = num_blocks(tokens_.size());
  const std::uint64_t bad =
      parallel_min(count, kMinBlocksPerThread, [&](std::uint64_t begin, std::uint64_t end) {
        for (std::uint64_t block = begin; block < end; ++block) {
          if (!matches(block)) return block;
        }
        return count;
      });
  if (bad != count) refuse_block(bad);
}

// Without a lock, all threads that find the index unverified verify it. A lock would stay locked in
// a process that is forked while another thread holds it.
void IndexedFile::require_verified() const {
  SigbusGuard::renew_handler();
  if (verified_.load(std::memory_order_acquire)) return;
  index_.verify_entries(tokens_);
  verified_.store(true, std::memory_order_release);
}

void IndexedFile::require_unchanged() const {
  index_.file().require_unchanged();
  tokens_.require_unchanged();
}

void IndexedFile::verify(std::optional<std::int64_t> eos_id) const {
  verified_.store(false, std::memory_order_release);
  require_verified();
  verify_blocks();
  const auto is_bad = [&](std::uint64_t sequence) {
    const std::optional<Slice> tokens = slice(sequence);
    return !tokens || first_bad_token(*tokens) || (eos_id && last_token(*tokens) != *eos_id);
  };
  const std::uint64_t bad = parallel_min(num_sequences(), kMinSequencesPerThread,
                                         [&](std::uint64_t begin, std::uint64_t end) {
                                           for (std::uint64_t i = begin; i < end; ++i) {
                                             if (is_bad(i)) return i;
                                           }
                                           return num_sequences();
                                         });
  require_unchanged();
  if (bad == num_sequences()) return;
  const Slice slice = locate(static_cast<std::int64_t>(bad));
  if (eos_id) refuse_end(slice, *eos_id);
  refuse_token(slice);
}

const std::byte* IndexedFile::lengths() const {
  require_verified();
  require_unchanged();
  return index_.length_address(0);
}

void IndexedFile::prefetch_entry(std::int64_t id) const noexcept {
  const auto sequence = static_cast<std::uint64_t>(id);
  if (sequence >= num_sequences()) return;  // locate() refuses it later
  __builtin_prefetch(index_.length_address(sequence));
  __builtin_prefetch(index_.pointer_address(sequence));
}

Slice IndexedFile::locate(std::int64_t id) const {
  std::vector<Slice> slices;
  locate(&id, 1, slices);
  require_unchanged();
  return slices.front();
}

void IndexedFile::locate(const std::int64_t* ids, std::size_t num_ids,
                         std::vector<Slice>& slices) const {
  require_verified();
  slices.reserve(slices.size() + num_ids);
  for (std::size_t i = 0; i < num_ids; ++i) {
    if (i + kPrefetchAhead < num_ids) prefetch_entry(ids[i + kPrefetchAhead]);
    const std::int64_t id = ids[i];
    const auto sequence = static_cast<std::uint64_t>(id);
    if (sequence >= num_sequences()) refuse_id(id, i);  // negative ids are huge
    const std::optional<Slice> tokens = slice(sequence);
    if (!tokens) refuse_slice(sequence);
    require_blocks(*tokens);
    slices.push_back(*tokens);
  }
}

/// The tokens of a sequence, or none if it lies outside the token file: the index was verified, but
/// it may have been rewritten in place since. Its entries are read once.
std::optional<Slice> IndexedFile::slice(std::uint64_t sequence) const noexcept {
  const std::uint64_t begin = index_.pointer(sequence);
  const std::int32_t length = index_.length(sequence);
  if (length < 1 || begin > tokens_.size() ||
      static_cast<std::uint64_t>(length) > (tokens_.size() - begin) / token_type().num_bytes) {
    return std::nullopt;
  }
  return Slice{sequence, tokens_.data() + begin, length};
}

void IndexedFile::refuse_slice(std::uint64_t sequence) const {
  require_unchanged();
  throw CorpusError(index_.file().path(),
                    "sequence " + text(sequence) +
                        " lies outside the token file; the index has changed since it was "
                        "opened: open it again");
}

void IndexedFile::require_ids(const std::int64_t* ids, std::size_t num_ids) const {
  for (std::size_t i = 0; i < num_ids; ++i) {
    if (static_cast<std::uint64_t>(ids[i]) >= num_sequences()) refuse_id(ids[i], i);
  }
}

void IndexedFile::copy(const std::vector<Slice>& slices, TokenLayout layout, OutputType output_type,
                       void* output, std::size_t output_size) const {
  const std::size_t bad =
      copy_tokens(slices.data(), slices.size(), token_type(), tokens_.data() + tokens_.size(),
                  max_token(), layout, output_type, output, output_size);
  require_unchanged();
  if (bad < slices.size()) refuse_token(slices[bad]);
}

std::uint64_t IndexedFile::max_token() const noexcept {
  constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 31;
  return static_cast<std::uint64_t>(std::min(vocab_size_.value_or(kMaxVocabulary), kMaxVocabulary) -
                                    1);
}

void IndexedFile::refuse_id(std::int64_t id, std::size_t i) const {
  throw std::out_of_range("ids[" + text(i) + "] is " + std::to_string(id) +
                          ", expected 0 or more and below " + text(num_sequences()) +
                          ", the number of sequences");
}

/// The first token that is negative or too large. Widens a piece of the sequence at a time, since a
/// sequence may be as long as the file.
std::optional<IndexedFile::BadToken> IndexedFile::first_bad_token(
    const Slice& slice) const noexcept {
  constexpr std::int32_t kPiece = 4096;
  std::array<std::int64_t, kPiece> widened;
  for (std::int32_t begin = 0; begin < slice.length;) {
    const std::int32_t length = std::min(kPiece, slice.length - begin);
    const Slice piece{slice.sequence,
                      slice.tokens + static_cast<std::uint64_t>(begin) * token_type().num_bytes,
                      length};
    if (copy_tokens(&piece, 1, token_type(), tokens_.data() + tokens_.size(), max_token(), {0, 0},
                    OutputType::kInt64, widened.data(), widened.size()) == 0) {
      const auto bad = std::find_if(
          widened.begin(), widened.begin() + (length - 1),
          [&](std::int64_t token) { return static_cast<std::uint64_t>(token) > max_token(); });
      return BadToken{begin + static_cast<std::int32_t>(bad - widened.begin()), *bad};
    }
    begin += length;
  }
  return std::nullopt;
}

void IndexedFile::refuse_token(const Slice& slice) const {
  const std::optional<BadToken> bad = first_bad_token(slice);
  if (!bad) {
    throw CorpusError(tokens_.path(), "was written to while it was read; open it again");
  }
  const std::string number = token_type().name == "uint64"
                                 ? text(static_cast<std::uint64_t>(bad->number))
                                 : std::to_string(bad->number);
  throw CorpusError(tokens_.path(),
                    "token " + std::to_string(bad->place) + " of sequence " + text(slice.sequence) +
                        " is " + number + ", expected 0 or more and below " +
                        (vocab_size_ ? std::to_string(*vocab_size_) + ", the vocab_size"
                                     : std::to_string(std::uint64_t{1} << 31)) +
                        "; open it with its own vocabulary, or rebuild it with 'pycat tokenize'");
}

std::int64_t IndexedFile::last_token(const Slice& slice) const noexcept {
  const auto before = static_cast<std::uint64_t>(slice.length - 1) * token_type().num_bytes;
  const Slice last{slice.sequence, slice.tokens + before, 1};
  std::int64_t token = 0;
  copy_tokens(&last, 1, token_type(), tokens_.data() + tokens_.size(), max_token(), {0, 0},
              OutputType::kInt64, &token, 1);
  return token;
}

/// Refuses a sequence that holds a bad token, or does not end with EOS.
void IndexedFile::refuse_end(const Slice& slice, std::int64_t eos_id) const {
  if (first_bad_token(slice)) refuse_token(slice);
  throw CorpusError(tokens_.path(), "sequence " + text(slice.sequence) + " ends with token " +
                                        std::to_string(last_token(slice)) + ", expected " +
                                        std::to_string(eos_id) +
                                        ", the eos_id; open it with its own eos_id, or make it "
                                        "with an EOS at the end of each sequence");
}

void require_pairs(const IndexedFile& src, const IndexedFile& tgt) {
  if (src.num_sequences() == tgt.num_sequences()) return;
  throw CorpusError(tgt.prefix(), "holds " + text(tgt.num_sequences()) + " sequences, expected " +
                                      text(src.num_sequences()) + " as in " +
                                      src.prefix().string() +
                                      "; open two sides of the same corpus");
}

Extent measure(const std::vector<Slice>& slices) {
  std::uint64_t num_tokens = 0;
  std::int32_t longest = 0;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    num_tokens += static_cast<std::uint64_t>(slices[i].length);
    longest = std::max(longest, slices[i].length);
    if (num_tokens > std::numeric_limits<std::int32_t>::max()) {
      throw std::invalid_argument("the sequences up to ids[" + text(i) + "] hold " +
                                  text(num_tokens) + " tokens, expected at most " +
                                  text(std::numeric_limits<std::int32_t>::max()) +
                                  "; gather fewer ids a call");
    }
  }
  return {static_cast<std::int32_t>(num_tokens), longest};
}

}  // namespace pycat
