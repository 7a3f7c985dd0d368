#include "corpus/index_file.h"

#include <algorithm>
#include <string>

#include "base/errors.h"
#include "base/parallel.h"

namespace pycat {
namespace {

// No file system can hold an index of more sequences, and sizes of fewer cannot overflow.
constexpr std::uint64_t kMaxSequences = std::uint64_t{1} << 56;
constexpr std::uint64_t kMinSequencesPerThread = 1 << 18;
constexpr char kEmpty[] =
    "; it is empty: write the end-of-sentence token of each sequence too (Megatron's --append-eod),"
    " or leave such pairs out on both sides";
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

}  // namespace

IndexFile::IndexFile(const std::filesystem::path& path, std::optional<Layout> layout)
    : file_(map_file(path)) {
  verify_magic();
  read_counts();
  choose_layout(layout);
  lengths_ = file_.data() + kHeaderBytes +
             (layout_ == Layout::kMegatron ? kDocumentCountBytes : std::uint64_t{0});
  pointers_ = lengths_ + kLengthBytes * num_sequences_;
}

void IndexFile::verify_magic() const {
  for (const char* magic : {"TNTIDX\0", "HUFFIDX"}) {
    if (begins_with(file_, magic, 8)) {
      throw CorpusError(file_.path(), std::string("is a ") + magic +
                                          " file, expected MMIDIDX; binarise the text again with "
                                          "'fairseq-preprocess --dataset-impl mmap' or "
                                          "'pycat tokenize'");
    }
  }
  if (file_.size() >= kMagicBytes && !begins_with(file_, kIndexMagic, kMagicBytes)) {
    throw CorpusError(file_.path(),
                      "does not begin with the magic MMIDIDX, so it is no corpus index; give the "
                      "prefix of a corpus made with 'pycat tokenize'");
  }
  if (file_.size() < kHeaderBytes) {
    throw CorpusError(file_.path(), "has " + text(file_.size()) +
                                        " bytes, expected at least the header's " +
                                        text(kHeaderBytes) + kRebuild);
  }
}

void IndexFile::read_counts() {
  const auto version = load<std::uint64_t>(file_.data() + kVersionOffset);
  if (version != kIndexVersion) {
    throw CorpusError(file_.path(), "has version " + text(version) + ", expected " +
                                        text(kIndexVersion) +
                                        "; it is damaged, or written by a newer format: rebuild "
                                        "it with 'pycat tokenize'");
  }
  const auto code = load<std::uint8_t>(file_.data() + kTypeOffset);
  const auto type =
      std::find_if(kTokenTypes.begin(), kTokenTypes.end(),
                   [code](const TokenType& candidate) { return candidate.code == code; });
  if (type == kTokenTypes.end()) {
    throw CorpusError(file_.path(),
                      "has dtype code " + text(code) +
                          ", expected an integer type (1, 2, 3, 4, 5, 8, 9 or 10); it is damaged, "
                          "or holds no token ids: rebuild it with 'pycat tokenize'");
  }
  token_type_ = *type;

  num_sequences_ = load<std::uint64_t>(file_.data() + kCountOffset);
  if (num_sequences_ == 0) {
    throw CorpusError(file_.path(), "holds no sequences; tokenize a text of at least one line");
  }
  if (num_sequences_ > kMaxSequences) {
    throw CorpusError(file_.path(), "says it holds " + text(num_sequences_) +
                                        " sequences, expected at most " + text(kMaxSequences) +
                                        kRebuild);
  }
}

/// The size of a Megatron index with `num_documents` documents and this file's number of sequences,
/// or 0 if no Megatron index has that many documents.
std::uint64_t IndexFile::megatron_bytes(std::uint64_t num_documents) const noexcept {
  if (num_documents == 0 || num_documents > kMaxSequences) return 0;
  return kHeaderBytes + kDocumentCountBytes + kEntryBytes * num_sequences_ +
         kDocumentBytes * num_documents;
}

void IndexFile::choose_layout(std::optional<Layout> layout) {
  const std::uint64_t fairseq = kHeaderBytes + kEntryBytes * num_sequences_;
  // In fairseq's layout these bytes are lengths. They are read once: in a file that is rewritten
  // meanwhile, the documents must be counted by the number that the size was compared with.
  const auto num_documents = file_.size() < kHeaderBytes + kDocumentCountBytes
                                 ? std::uint64_t{0}
                                 : load<std::uint64_t>(file_.data() + kHeaderBytes);
  const std::uint64_t megatron = megatron_bytes(num_documents);
  const bool is_fairseq = file_.size() == fairseq;
  const bool is_megatron =
      megatron != 0 && (file_.size() == megatron || file_.size() == megatron + num_sequences_);
  const Layout chosen =
      layout.value_or(is_megatron && !is_fairseq ? Layout::kMegatron : Layout::kFairseq);
  if (chosen == Layout::kFairseq ? is_fairseq : is_megatron) {
    layout_ = chosen;
    if (layout_ == Layout::kMegatron) num_documents_ = num_documents;
    return;
  }
  std::string expected = text(fairseq);
  if (layout == Layout::kMegatron) {
    expected = megatron == 0 ? "a document count of 1 or more" : text(megatron);
  }
  const bool is_other = is_fairseq || is_megatron;
  throw CorpusError(
      file_.path(),
      "has " + text(file_.size()) + " bytes, expected " + expected + " for its " +
          text(num_sequences_) + " sequences" + (layout ? " in the layout asked for" : "") +
          (is_other ? "; it has the other layout: leave the layout to be recognised" : kRebuild));
}

void IndexFile::verify_documents() const {
  const std::byte* documents =
      file_.data() + kHeaderBytes + kDocumentCountBytes + kEntryBytes * num_sequences_;
  std::uint64_t before = 0;
  for (std::uint64_t i = 0; i < num_documents_; ++i) {
    const auto document = load<std::uint64_t>(documents + kDocumentBytes * i);
    if ((i == 0 && document != 0) || document < before || document > num_sequences_ ||
        (i == num_documents_ - 1 && document != num_sequences_)) {
      throw CorpusError(file_.path(), "document " + text(i) + " begins at sequence " +
                                          std::to_string(static_cast<std::int64_t>(document)) +
                                          ", expected the documents to rise from 0 to " +
                                          text(num_sequences_) + kRebuild);
    }
    before = document;
  }
}

void IndexFile::verify_entries(const MappedFile& tokens) const {
  if (tokens.size() == 0) throw CorpusError(tokens.path(), std::string("is empty") + kRebuild);
  verify_documents();

  // Each pointer must be its predecessor's end. Together, these ends are the sums of the lengths.
  std::uint64_t bad = pointer(0) == 0 ? num_sequences_ : 0;
  if (bad != 0) {
    bad = parallel_min(num_sequences_, kMinSequencesPerThread,
                       [&](std::uint64_t begin, std::uint64_t end) {
                         return first_bad_entry(begin, end, tokens.size());
                       });
  }
  file_.require_unchanged();
  tokens.require_unchanged();
  if (bad < num_sequences_) refuse_entry(bad, tokens);
  const std::uint64_t last = num_sequences_ - 1;
  const std::uint64_t end =
      pointer(last) + static_cast<std::uint64_t>(length(last)) * token_type_.num_bytes;
  if (end != tokens.size()) {
    throw CorpusError(tokens.path(), "has " + text(tokens.size()) + " bytes, expected " +
                                         text(end) + " (the sum of all lengths)" + kRebuild);
  }
}

/// The first sequence in [begin, end) that is shorter than 1, ends past the tokens, or does not
/// begin where the one before it ends; num_sequences() if there is none. The entry at `end` is
/// checked too.
std::uint64_t IndexFile::first_bad_entry(std::uint64_t begin, std::uint64_t end,
                                         std::uint64_t tokens_bytes) const noexcept {
  std::uint64_t from = pointer(begin);
  for (std::uint64_t i = begin; i < end; ++i) {
    const std::int32_t tokens = length(i);
    const std::uint64_t num_bytes = static_cast<std::uint64_t>(tokens) * token_type_.num_bytes;
    if (tokens < 1 || from > tokens_bytes || num_bytes > tokens_bytes - from) return i;
    if (i + 1 == num_sequences_) break;
    if (pointer(i + 1) != from + num_bytes) return i + 1;
    from += num_bytes;
  }
  return num_sequences_;
}

void IndexFile::refuse_entry(std::uint64_t sequence, const MappedFile& tokens) const {
  if (length(sequence) < 1) {
    throw CorpusError(file_.path(), "length of sequence " + text(sequence) + " is " +
                                        std::to_string(length(sequence)) + ", expected at least 1" +
                                        (length(sequence) == 0 ? kEmpty : kRebuild));
  }
  std::uint64_t end = 0;
  if (sequence > 0) {
    end = pointer(sequence - 1) +
          static_cast<std::uint64_t>(length(sequence - 1)) * token_type_.num_bytes;
  }
  if (pointer(sequence) != end) {
    // Pointers are signed in the file, and a negative one is shown as such.
    throw CorpusError(file_.path(),
                      "pointer of sequence " + text(sequence) + " is " +
                          std::to_string(static_cast<std::int64_t>(pointer(sequence))) +
                          ", expected " + text(end) + " (the sum of the lengths before it)" +
                          kRebuild);
  }
  end += static_cast<std::uint64_t>(length(sequence)) * token_type_.num_bytes;
  throw CorpusError(tokens.path(), "sequence " + text(sequence) + " should end at byte " +
                                       text(end) + " but the file ends at " + text(tokens.size()) +
                                       kRebuild);
}

}  // namespace pycat
