// Feeds damaged indexes and token files to the reader: fuzz_index INPUTS [SEED [FOLDER]].
//
// Small valid files of every type and layout are mutated: the same inputs for the same seed. What
// the reader accepts must be what an independent parser accepts, and every number it reads the one
// that parser reads; anything else must be a CorpusError. Then the files are damaged while they are
// open. Under AddressSanitizer the rest of each mapping's last page is poisoned, so that a read
// past the end of a file is found, too.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/errors.h"
#include "corpus/batch_plan.h"
#include "corpus/batch_stream.h"
#include "corpus/indexed_file.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>

// Linked in place of mmap and munmap (-Wl,--wrap).
extern "C" {
void* __real_mmap(void* address, std::size_t size, int prot, int flags, int fd, off_t offset);
int __real_munmap(void* address, std::size_t size);

namespace {
std::size_t to_page_end(std::size_t size) { return (size + 4095) / 4096 * 4096 - size; }
}  // namespace

void* __wrap_mmap(void* address, std::size_t size, int prot, int flags, int fd, off_t offset) {
  void* result = __real_mmap(address, size, prot, flags, fd, offset);
  if (result != MAP_FAILED && fd >= 0) {
    __asan_poison_memory_region(static_cast<char*>(result) + size, to_page_end(size));
  }
  return result;
}

int __wrap_munmap(void* address, std::size_t size) {
  __asan_unpoison_memory_region(address, size + to_page_end(size));
  return __real_munmap(address, size);
}
}
#endif

namespace pycat {
namespace {

using Bytes = std::vector<std::uint8_t>;
using Sequences = std::vector<std::vector<std::uint64_t>>;  // ids, negative ones as huge numbers

struct Input {
  Bytes idx;
  Bytes bin;
  std::optional<Layout> layout;
  std::optional<std::int64_t> vocab_size;
};

std::uint64_t current = 0;

void require(bool holds, const char* what) {
  if (holds) return;
  std::cerr << "input " << current << ": " << what << std::endl;
  std::abort();
}

// An independent parser

std::int64_t number(const Bytes& bytes, std::size_t at, std::size_t size, bool is_signed) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < size; ++i) value |= std::uint64_t{bytes.at(at + i)} << (8 * i);
  if (is_signed && size < 8 && (value >> (8 * size - 1)) != 0)
    value |= ~std::uint64_t{0} << 8 * size;
  return static_cast<std::int64_t>(value);
}

/// The sequences of an undamaged pair of files.
std::optional<Sequences> parse(const Input& input) {
  const Bytes& idx = input.idx;
  const std::string magic("MMIDIDX\0\0", 9);
  if (idx.size() < 26 || !std::equal(magic.begin(), magic.end(), idx.begin())) return std::nullopt;
  if (number(idx, 9, 8, false) != 1) return std::nullopt;
  constexpr int kSizes[] = {0, 1, 1, 2, 4, 8, 0, 0, 2, 4, 8};
  const std::uint8_t code = idx[17];
  if (code > 10 || kSizes[code] == 0) return std::nullopt;
  const bool is_signed = code >= 2 && code <= 5;
  const auto item = static_cast<std::size_t>(kSizes[code]);
  const std::int64_t n = number(idx, 18, 8, false);
  if (n < 1 || n > static_cast<std::int64_t>(idx.size())) return std::nullopt;
  const auto count = static_cast<std::size_t>(n);

  std::size_t at = 26;
  const bool fairseq = idx.size() == 26 + 12 * count;
  if (input.layout ? *input.layout == Layout::kMegatron : !fairseq) {
    if (idx.size() < 34) return std::nullopt;
    const std::int64_t d = number(idx, 26, 8, false);
    if (d < 1 || d > static_cast<std::int64_t>(idx.size())) return std::nullopt;
    const std::size_t size = 34 + 12 * count + 8 * static_cast<std::size_t>(d);
    if (idx.size() != size && idx.size() != size + count) return std::nullopt;
    std::int64_t before = 0;
    for (std::int64_t i = 0; i < d; ++i) {
      const auto place = 34 + 12 * count + 8 * static_cast<std::size_t>(i);
      const std::int64_t document = number(idx, place, 8, false);
      if (document < before || document > n || (i == 0 && document != 0)) return std::nullopt;
      before = document;
    }
    if (before != n) return std::nullopt;
    at = 34;
  } else if (!fairseq) {
    return std::nullopt;
  }

  Sequences sequences(count);
  std::size_t begin = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t length = number(idx, at + 4 * i, 4, true);
    if (length < 1 || static_cast<std::size_t>(length) > input.bin.size()) return std::nullopt;
    if (number(idx, at + 4 * count + 8 * i, 8, false) != static_cast<std::int64_t>(begin)) {
      return std::nullopt;
    }
    if (begin + static_cast<std::size_t>(length) * item > input.bin.size()) return std::nullopt;
    for (std::int64_t token = 0; token < length; ++token, begin += item) {
      sequences[i].push_back(static_cast<std::uint64_t>(number(input.bin, begin, item, is_signed)));
    }
  }
  if (begin != input.bin.size()) return std::nullopt;
  return sequences;
}

// Inputs

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {
    for (const TokenType& type : kTokenTypes) {
      for (int layout = 0; layout < 3; ++layout) {
        for (std::size_t count : {1, 2, 5}) seeds_.push_back(valid(type, layout, count));
      }
    }
  }

  Input next() {
    Input input = seeds_[below(seeds_.size())];
    if (below(4) == 0) input.layout = below(2) == 0 ? Layout::kFairseq : Layout::kMegatron;
    if (below(3) == 0) input.vocab_size = 1 + static_cast<std::int64_t>(below(120));
    for (std::uint64_t left = below(5); left > 0; --left) mutate(input);
    return input;
  }

  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }

  void mutate(Input& input) {
    Bytes& bytes = below(4) == 0 ? input.bin : input.idx;
    const std::uint64_t at = bytes.empty() ? 0 : below(bytes.size());
    const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(10)) {
      case 0:
        if (!bytes.empty()) bytes[at] ^= static_cast<std::uint8_t>(1u << below(8));
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<std::uint8_t>(below(256));
        break;
      case 2:
        bytes.resize(at);
        break;
      case 3:
        bytes.resize(bytes.size() + 1 + below(40), static_cast<std::uint8_t>(below(256)));
        break;
      case 4:
        bytes.insert(place, 1 + below(16), static_cast<std::uint8_t>(below(3)));
        break;
      case 5:
        bytes.erase(place, place + static_cast<std::ptrdiff_t>(below(bytes.size() - at + 1)));
        break;
      case 6: {  // the rest of another file
        const Input& other = seeds_[below(seeds_.size())];
        const Bytes& from = &bytes == &input.bin ? other.bin : other.idx;
        bytes.resize(at);
        if (at < from.size()) {
          bytes.insert(bytes.end(), from.begin() + static_cast<std::ptrdiff_t>(at), from.end());
        }
        break;
      }
      case 7:  // a boundary moves: two lengths and a pointer that still agree
        move_boundary(input);
        break;
      default:
        write_number(bytes);
    }
  }

 private:
  static void append(Bytes& bytes, std::uint64_t value, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) {
      bytes.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
    }
  }

  Input valid(const TokenType& type, int layout, std::size_t count) {
    Input input;
    input.idx.assign(kIndexMagic, kIndexMagic + kMagicBytes);
    append(input.idx, 1, 8);
    append(input.idx, type.code, 1);
    append(input.idx, count, 8);
    const std::size_t num_documents = 2 + below(3);
    if (layout > 0) append(input.idx, num_documents, 8);
    std::vector<std::uint64_t> lengths(count);
    for (std::uint64_t& length : lengths) append(input.idx, length = 1 + below(40), 4);
    std::uint64_t begin = 0;
    for (std::uint64_t length : lengths) {
      append(input.idx, begin, 8);
      begin += length * type.num_bytes;
      for (std::uint64_t i = 0; i < length; ++i) append(input.bin, below(100), type.num_bytes);
    }
    if (layout > 0) {
      append(input.idx, 0, 8);
      for (std::size_t i = 2; i < num_documents; ++i) append(input.idx, count / 2, 8);
      append(input.idx, count, 8);
    }
    if (layout > 1) append(input.idx, 0, count);
    return input;
  }

  /// A number that borders on something, mostly where a field begins.
  void write_number(Bytes& bytes) {
    constexpr std::uint64_t kNumbers[] = {0,
                                          1,
                                          2,
                                          3,
                                          5,
                                          26,
                                          34,
                                          127,
                                          128,
                                          255,
                                          256,
                                          0x7FFF,
                                          0x8000,
                                          0xFFFF,
                                          0x10000,
                                          0x7FFFFFFF,
                                          0x80000000,
                                          0xFFFFFFFF,
                                          0x100000000,
                                          0x0555555555555555,
                                          0x1555555555555555,
                                          0x2000000000000000,
                                          0x7FFFFFFFFFFFFFFF,
                                          0x8000000000000000,
                                          0xFFFFFFFFFFFFFFFE,
                                          0xFFFFFFFFFFFFFFFF,
                                          0x00FFFFFFFFFFFFFF,
                                          0x0100000000000000};
    constexpr std::size_t kFields[] = {0, 9, 17, 18, 26, 30, 34, 38, 42, 46, 50, 54, 58, 62};
    const std::uint64_t value = kNumbers[below(std::size(kNumbers))] + below(3) - 1;
    const std::size_t size = std::size_t{1} << below(4);
    const std::size_t at =
        below(3) == 0 ? below(bytes.size() + 1) : kFields[below(std::size(kFields))];
    for (std::size_t i = 0; i < size && at + i < bytes.size(); ++i) {
      bytes[at + i] = static_cast<std::uint8_t>(value >> (8 * i));
    }
  }

  void move_boundary(Input& input) {
    Bytes& idx = input.idx;
    if (idx.size() < 58) return;
    const auto count = static_cast<std::size_t>(number(idx, 18, 8, false));
    if (count < 2 || count > 8) return;
    const std::size_t lengths = idx.size() == 26 + 12 * count ? 26 : 34;
    const std::size_t first = below(count - 1);
    const std::size_t pointer = lengths + 4 * count + 8 * (first + 1);
    constexpr int kSizes[] = {0, 1, 1, 2, 4, 8, 0, 0, 2, 4, 8};
    if (pointer + 8 > idx.size() || idx[17] > 10) return;
    const auto by = static_cast<std::int64_t>(below(5)) - 2;
    const auto add = [&](std::size_t at, std::size_t size, std::int64_t change) {
      const auto sum = static_cast<std::uint64_t>(number(idx, at, size, false)) +
                       static_cast<std::uint64_t>(change);
      for (std::size_t i = 0; i < size; ++i)
        idx[at + i] = static_cast<std::uint8_t>(sum >> (8 * i));
    };
    add(lengths + 4 * first, 4, by);
    add(lengths + 4 * (first + 1), 4, -by);
    add(pointer, 8, by * kSizes[idx[17]]);
  }

  std::mt19937_64 random_;
  std::vector<Input> seeds_;
};

// The reader

class File {
 public:
  explicit File(std::string path)
      : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600)) {
    require(fd_ >= 0, "cannot create a file in the folder");
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    ::close(fd_);
    ::unlink(path_.c_str());
  }

  void write(const Bytes& bytes) const {
    const auto size = static_cast<off_t>(bytes.size());
    require(::ftruncate(fd_, size) == 0 && ::pwrite(fd_, bytes.data(), bytes.size(), 0) == size,
            "cannot write");
  }
  void cut(std::size_t size) const {
    require(::ftruncate(fd_, static_cast<off_t>(size)) == 0, "cannot cut");
  }

 private:
  std::string path_;
  int fd_;
};

/// Whether `action` ends; a CorpusError is the only other way out.
template <typename Action>
bool succeeds(const Action& action) {
  try {
    action();
    return true;
  } catch (const CorpusError&) {
    return false;
  } catch (const std::exception& error) {
    require(false, error.what());
  }
  return false;
}

std::vector<std::uint64_t> tokens_of(const BatchTensor& tensor) {
  const std::int64_t count =
      tensor.num_dimensions == 2 ? tensor.shape[0] * tensor.shape[1] : tensor.shape[0];
  std::vector<std::uint64_t> result;
  for (std::int64_t i = 0; i < count; ++i) {
    result.push_back(tensor.type == OutputType::kInt32
                         ? static_cast<std::uint64_t>(load<std::int32_t>(tensor.data + 4 * i))
                         : static_cast<std::uint64_t>(load<std::int64_t>(tensor.data + 8 * i)));
  }
  return result;
}

/// The sequences `ids` as a batch should hold them.
std::vector<std::uint64_t> laid_out(const Sequences& sequences,
                                    const std::vector<std::int64_t>& ids, bool padded,
                                    std::uint64_t pad_id) {
  std::size_t longest = 0;
  for (std::int64_t id : ids) {
    longest = std::max(longest, sequences[static_cast<std::size_t>(id)].size());
  }
  std::vector<std::uint64_t> result;
  for (std::int64_t id : ids) {
    const auto& tokens = sequences[static_cast<std::size_t>(id)];
    result.insert(result.end(), tokens.begin(), tokens.end());
    if (padded) result.resize(result.size() + longest - tokens.size(), pad_id);
  }
  return result;
}

bool valid_tokens(const Sequences& sequences, const std::vector<std::int64_t>& ids,
                  std::optional<std::int64_t> vocab_size) {
  const auto limit = static_cast<std::uint64_t>(vocab_size.value_or(std::int64_t{1} << 31));
  return std::all_of(ids.begin(), ids.end(), [&](std::int64_t id) {
    const auto& tokens = sequences[static_cast<std::size_t>(id)];
    return std::all_of(tokens.begin(), tokens.end(),
                       [limit](std::uint64_t token) { return token < limit; });
  });
}

std::vector<std::int64_t> all_ids(std::size_t count) {
  std::vector<std::int64_t> ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = static_cast<std::int64_t>(count - 1 - i);
  return ids;
}

void read_everything(const std::shared_ptr<IndexedFile>& file, const Input& input,
                     const Sequences& sequences, bool padded) {
  require(file->num_sequences() == sequences.size(), "another number of sequences");
  const std::byte* lengths = file->lengths();
  std::uint64_t num_tokens = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    require(load<std::uint32_t>(lengths + 4 * i) == sequences[i].size(), "another length");
    const Slice slice = file->locate(static_cast<std::int64_t>(i));
    const std::size_t begin = num_tokens * file->token_type().num_bytes;
    const std::size_t size = sequences[i].size() * file->token_type().num_bytes;
    require(std::equal(slice.tokens, slice.tokens + size,
                       reinterpret_cast<const std::byte*>(input.bin.data()) + begin),
            "other bytes");
    num_tokens += sequences[i].size();
  }
  require(file->num_tokens() == num_tokens, "another number of tokens");
  const std::vector<std::int64_t> ids = all_ids(sequences.size());
  require(succeeds([&] { file->verify(std::nullopt); }) ==
              valid_tokens(sequences, ids, input.vocab_size),
          "verify() is wrong");

  constexpr std::uint64_t kPad = 77;
  const OutputType type = num_tokens % 2 == 0 ? OutputType::kInt32 : OutputType::kInt64;
  const BatchFormat format{padded, static_cast<std::int64_t>(kPad), type};
  const auto order = std::make_shared<PairOrder>(*file, *file, nullptr, 0, "/");
  const auto plan = std::make_shared<BatchPlan>(order, PlanOptions{64, padded, 1});
  BatchStream stream(file, file, plan, format, {}, {{num_tokens, 0}, 0, 0, 1, 0});
  std::vector<bool> seen(sequences.size());
  std::size_t num_batches = 0;
  bool valid = true;
  for (std::uint64_t step = 0; valid && step < plan->num_steps(); ++step, ++num_batches) {
    std::vector<std::int64_t> wanted;
    plan->pairs({num_tokens, 0}, *plan->batch_at({num_tokens, 0}, step, 0), wanted);
    valid = valid_tokens(sequences, wanted, input.vocab_size);
    std::optional<Batch> batch;
    require(succeeds([&] { batch = stream.next([] {}); }) == valid, "next() is wrong");
    if (!valid) break;
    require(batch.has_value(), "a batch is missing");
    const auto expected = laid_out(sequences, wanted, padded, kPad);
    require(tokens_of(batch->src_tokens) == expected, "other source tokens");
    require(tokens_of(batch->tgt_tokens) == expected, "other target tokens");
    for (std::int64_t id : wanted) {
      require(!seen[static_cast<std::size_t>(id)], "a pair comes twice");
      seen[static_cast<std::size_t>(id)] = true;
    }
  }
  require(!valid || std::find(seen.begin(), seen.end(), false) == seen.end(), "a pair is missing");
}

/// Reads files that are no longer as they were: whatever comes, ids below the vocabulary or an
/// error.
void read_changed(const std::shared_ptr<IndexedFile>& file, std::size_t count, bool must_fail) {
  const auto attempt = [must_fail](const auto& action) {
    require(!succeeds(action) || !must_fail, "a file that was cut short is read");
  };
  attempt([&] { file->lengths(); });
  attempt([&] { file->verify(std::nullopt); });
  attempt([&] {
    const auto pool = std::make_shared<BlockPool>(std::vector<Block>{}, 1);
    const Batch batch =
        BatchReader(file, file, {true, 0, OutputType::kInt64}, pool).read(all_ids(count));
    for (std::uint64_t token : tokens_of(batch.src_tokens)) {
      require(token < std::uint64_t{1} << 31, "an id outside every vocabulary");
    }
  });
  attempt([&] {
    const auto order = std::make_shared<PairOrder>(*file, *file, nullptr, 0, "/");
    const BatchPlan plan(order, {64, false, 1});
    require(plan.num_batches() > 0, "no batches");
  });
}

int run(std::uint64_t num_inputs, std::uint64_t seed, const std::string& folder) {
  const std::string prefix = folder + "/pycat-fuzz-" + std::to_string(::getpid());
  const File idx(prefix + ".idx");
  const File bin(prefix + ".bin");
  Mutator mutator(seed);
  std::uint64_t num_accepted = 0;
  std::uint64_t num_changed = 0;
  const auto start = std::chrono::steady_clock::now();
  for (current = 0; current < num_inputs; ++current) {
    Input input = mutator.next();
    const auto expected = parse(input);
    idx.write(input.idx);
    bin.write(input.bin);
    std::shared_ptr<IndexedFile> file;
    const bool opened = succeeds(
        [&] { file = std::make_shared<IndexedFile>(prefix, input.vocab_size, input.layout); });
    require(opened == expected.has_value(),
            opened ? "a damaged file is accepted" : "a good file is refused");
    if (!opened) continue;
    ++num_accepted;
    read_everything(file, input, *expected, mutator.below(2) == 0);
    if (mutator.below(4) != 0) continue;
    ++num_changed;
    const bool of_index = mutator.below(2) == 0;
    const bool cut = mutator.below(2) == 0;
    if (cut) {
      (of_index ? idx : bin).cut(mutator.below((of_index ? input.idx : input.bin).size()));
    } else {
      const std::size_t idx_size = input.idx.size();
      const std::size_t bin_size = input.bin.size();
      mutator.mutate(input);
      input.idx.resize(idx_size);
      input.bin.resize(bin_size);
      idx.write(input.idx);
      bin.write(input.bin);
    }
    read_changed(file, expected->size(), cut);
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  std::cout << num_inputs << " inputs (seed " << seed << "), " << num_accepted << " accepted, "
            << num_changed << " of them damaged while open: no finding in " << elapsed.count()
            << " s" << std::endl;
  return 0;
}

}  // namespace
}  // namespace pycat

int main(int num_arguments, char** arguments) {
  const auto argument = [&](int i, const char* otherwise) {
    return std::string(num_arguments > i ? arguments[i] : otherwise);
  };
  return pycat::run(std::stoull(argument(1, "100000")), std::stoull(argument(2, "0")),
                    argument(3, "/dev/shm"));
}
