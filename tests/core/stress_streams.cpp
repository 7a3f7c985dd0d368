// Readers and streams on many threads at once: stress_streams [FOLDER]. For ThreadSanitizer and
// AddressSanitizer, which find what no result shows; the results are compared all the same.

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/errors.h"
#include "base/hash.h"
#include "corpus/batch_plan.h"
#include "corpus/batch_stream.h"
#include "corpus/indexed_file.h"
#include "corpus/indexed_writer.h"

#if defined(__SANITIZE_THREAD__)
// To ThreadSanitizer, mapping pages is writing them, and the handler maps zeros while other threads
// read. That is intended: the loss is noted before, and readers look for it after they have read.
extern "C" const char* __tsan_default_suppressions() { return "race:map_zeros\n"; }
#endif

namespace pycat {
namespace {

using Files = std::shared_ptr<const IndexedFile>;

constexpr int kThreads = 4;
constexpr int kRounds = 60;

void require(bool holds, const char* what) {
  if (holds) return;
  std::cerr << what << std::endl;
  std::abort();
}

template <typename Error, typename Action>
void require_error(const Action& action, const char* what) {
  try {
    action();
  } catch (const Error&) {
    return;
  }
  require(false, what);
}

void on_threads(int num_threads, const std::function<void(int)>& action) {
  std::vector<std::thread> threads;
  for (int i = 0; i < num_threads; ++i) threads.emplace_back(action, i);
  for (std::thread& thread : threads) thread.join();
}

void write(const std::string& prefix, std::size_t num_sequences, int longest) {
  std::vector<std::int32_t> lengths(num_sequences);
  for (std::size_t i = 0; i < num_sequences; ++i) {
    lengths[i] = 1 + static_cast<std::int32_t>(mix_bits(i) % static_cast<unsigned>(longest));
  }
  const auto num_tokens = std::accumulate(lengths.begin(), lengths.end(), std::size_t{0});
  std::vector<std::int32_t> tokens(num_tokens);
  for (std::size_t i = 0; i < num_tokens; ++i) tokens[i] = static_cast<std::int32_t>(i % 1000);
  IndexedWriter writer(prefix, "uint16");
  writer.append(tokens.data(), tokens.size(), lengths.data(), lengths.size());
  writer.close();
}

Files open(const std::string& prefix) {
  return std::make_shared<IndexedFile>(prefix, 1000, std::nullopt);
}

std::shared_ptr<BatchStream> stream_of(const Files& src, const Files& tgt, std::size_t num_threads,
                                       std::size_t prefetch, std::uint64_t seed = 1) {
  const auto order = std::make_shared<PairOrder>(*src, *tgt, nullptr, 0, "/");
  const auto plan = std::make_shared<BatchPlan>(order, PlanOptions{300, seed % 2 == 0, 1});
  return std::make_shared<BatchStream>(
      src, tgt, plan, BatchFormat{seed % 2 == 0, 0, OutputType::kInt64}, std::vector<Block>{},
      BatchStream::Options{{seed, 0}, 0, 0, prefetch, num_threads});
}

/// Of everything in a batch.
std::uint64_t hash_of(const Batch& batch) {
  Hash hash;
  for (const BatchTensor* tensor : {&batch.src_tokens, &batch.tgt_tokens, &batch.pair_ids}) {
    const std::int64_t count =
        tensor->num_dimensions == 2 ? tensor->shape[0] * tensor->shape[1] : tensor->shape[0];
    for (std::int64_t i = 0; i < count; ++i) {
      hash.add(static_cast<std::uint64_t>(load<std::int64_t>(tensor->data + 8 * i)));
    }
  }
  return hash.value();
}

std::vector<std::uint64_t> read_all(BatchStream& stream) {
  std::vector<std::uint64_t> hashes;
  while (const auto batch = stream.next([] {})) hashes.push_back(hash_of(*batch));
  return hashes;
}

void any_number_of_threads_reads_the_same(const Files& src, const Files& tgt) {
  for (std::uint64_t seed : {1u, 2u}) {
    const auto expected = read_all(*stream_of(src, tgt, 0, 1, seed));
    for (std::size_t num_threads : {1u, 2u, 4u}) {
      for (std::size_t prefetch : {1u, 2u, 7u}) {
        require(read_all(*stream_of(src, tgt, num_threads, prefetch, seed)) == expected,
                "other batches on threads");
      }
    }
  }
}

void consumers_share_a_stream(const Files& src, const Files& tgt) {
  auto expected = read_all(*stream_of(src, tgt, 0, 1));
  std::sort(expected.begin(), expected.end());
  for (std::size_t num_threads : {0u, 1u, 3u}) {
    const auto stream = stream_of(src, tgt, num_threads, 3);
    std::vector<std::vector<std::uint64_t>> parts(kThreads);
    on_threads(kThreads, [&](int i) { parts[static_cast<std::size_t>(i)] = read_all(*stream); });
    std::vector<std::uint64_t> hashes;
    for (const auto& part : parts) hashes.insert(hashes.end(), part.begin(), part.end());
    std::sort(hashes.begin(), hashes.end());
    require(hashes == expected, "a batch was lost or came twice");
  }
}

void streams_close_at_any_time(const Files& src, const Files& tgt) {
  for (int round = 0; round < kRounds; ++round) {
    const auto stream = stream_of(src, tgt, static_cast<std::size_t>(round % 4), 2);
    on_threads(3, [&](int i) {
      if (i == 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(100 * round));
        stream->close();
        return;
      }
      try {
        read_all(*stream);
      } catch (const std::runtime_error& error) {
        require(std::string(error.what()).find("is closed") != std::string::npos, error.what());
      }
    });
    require_error<std::runtime_error>([&] { stream->next([] {}); }, "a closed stream goes on");
  }
}

void streams_end_unread(const Files& src, const Files& tgt) {
  for (int round = 0; round < kRounds; ++round) {
    const auto stream = stream_of(src, tgt, 2, 4);
    for (int i = 0; i < round % 3; ++i) stream->next([] {});
  }
}

void batches_end_on_other_threads(const Files& src, const Files& tgt) {
  auto stream = stream_of(src, tgt, 2, 2);
  std::vector<Batch> batches;
  while (auto batch = stream->next([] {})) batches.push_back(std::move(*batch));
  std::vector<std::uint64_t> before;
  for (const Batch& batch : batches) before.push_back(hash_of(batch));
  require(before == read_all(*stream_of(src, tgt, 0, 1)), "batches that are held change");
  std::thread last([&] { stream.reset(); });
  on_threads(kThreads, [&](int thread) {
    for (auto i = static_cast<std::size_t>(thread); i < batches.size(); i += kThreads) {
      require(hash_of(batches[i]) == before[i], "batches that outlive the stream change");
      batches[i] = Batch{};
    }
  });
  last.join();
}

void waiting_is_interrupted(const Files& src, const Files& tgt) {
  // The file is verified on a thread first, which takes longer than the consumer's patience
  // under a sanitizer; where it does not, there is no wait to interrupt.
  const auto stream = stream_of(src, tgt, 1, 1);
  try {
    while (stream->next([] { throw std::domain_error("interrupted"); })) continue;
  } catch (const std::domain_error&) {
    while (stream->next([] {})) continue;
  }
}

void large_files_are_verified_at_once(const std::string& prefix) {
  for (int round = 0; round < 3; ++round) {
    const Files file = open(prefix);
    on_threads(kThreads, [&](int i) {
      if (i == 0) file->verify(std::nullopt);
      if (i == 1) file->lengths();
      if (i == 2) PairOrder(*file, *file, nullptr, 0, "/");
      if (i == 3) {
        const auto pool = std::make_shared<BlockPool>(std::vector<Block>{}, 1);
        BatchReader(file, file, {false, 0, OutputType::kInt64}, pool).read({0, 5, 3});
      }
    });
  }
}

/// The files shrink while all read them, and others open and close files of their own.
void files_shrink_under_readers(const std::string& prefix, const std::string& other) {
  for (int round = 0; round < 10; ++round) {
    write(prefix, 20'000, 20);
    const Files file = open(prefix);
    std::atomic<bool> cut{false};
    const auto stream = stream_of(file, file, 2, 2);
    on_threads(kThreads, [&](int i) {
      if (i == 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(500 * round));
        std::filesystem::resize_file(prefix + (round % 2 == 0 ? ".bin" : ".idx"), 5000);
        cut.store(true);
      } else if (i == 1) {
        for (int again = 0; again < 50; ++again) open(other)->lengths();
      } else {
        while (true) {
          const bool was_cut = cut.load();
          try {
            if (i == 2) {
              file->verify(std::nullopt);
            } else if (!stream->next([] {})) {
              break;
            }
            require(!was_cut || i == 3, "a file that was cut short is read");
          } catch (const CorpusError&) {
            break;
          }
        }
      }
    });
    require_error<CorpusError>([&] { file->lengths(); }, "a file that was cut short is read");
  }
}

int run(const std::filesystem::path& folder) {
  const std::filesystem::path mine = folder / ("pycat-stress-" + std::to_string(::getpid()));
  std::filesystem::create_directory(mine);
  const std::string src_prefix = (mine / "src").native();
  const std::string tgt_prefix = (mine / "tgt").native();
  const std::string large_prefix = (mine / "large").native();
  write(src_prefix, 3000, 30);
  write(tgt_prefix, 3000, 40);
  write(large_prefix, 600'000, 2);
  const Files src = open(src_prefix);
  const Files tgt = open(tgt_prefix);
  const auto start = std::chrono::steady_clock::now();
  any_number_of_threads_reads_the_same(src, tgt);
  consumers_share_a_stream(src, tgt);
  streams_close_at_any_time(src, tgt);
  streams_end_unread(src, tgt);
  batches_end_on_other_threads(src, tgt);
  waiting_is_interrupted(src, tgt);
  large_files_are_verified_at_once(large_prefix);
  files_shrink_under_readers((mine / "cut").native(), tgt_prefix);
  std::filesystem::remove_all(mine);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  std::cout << "streams and readers under stress: no finding in " << elapsed.count() << " s"
            << std::endl;
  return 0;
}

}  // namespace
}  // namespace pycat

int main(int num_arguments, char** arguments) {
  return pycat::run(num_arguments > 1 ? arguments[1] : "/dev/shm");
}
