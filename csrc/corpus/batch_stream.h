#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "corpus/batch.h"
#include "corpus/batch_plan.h"

namespace pycat {

/// The batches of one rank in one epoch, in the plan's order, read ahead by threads.
///
/// At most `prefetch` batches stand ready. Which batches come, and every byte of them, is the same
/// for any number of threads, none included. Any thread may call; each batch goes to one of them.
///
/// In a forked process nothing but is_forked() and close() may be called, nor may it be destroyed:
/// its threads are not there, but the copies of its locks are as they left them.
class BatchStream {
 public:
  struct Options {
    BatchPlan::Epoch epoch;
    std::int64_t rank;
    std::uint64_t first_step;
    std::size_t prefetch;
    std::size_t num_threads;  // 0: each batch is read when it is asked for
  };

  BatchStream(std::shared_ptr<const IndexedFile> src, std::shared_ptr<const IndexedFile> tgt,
              std::shared_ptr<const BatchPlan> plan, BatchFormat format, std::vector<Block> blocks,
              Options options);
  BatchStream(const BatchStream&) = delete;
  BatchStream& operator=(const BatchStream&) = delete;
  ~BatchStream();

  /// The next batch, or none at the end of the epoch. Calls `while_waiting` now and then, which may
  /// throw. An error in reading a batch is thrown when it is that batch's turn, and again.
  std::optional<Batch> next(const std::function<void()>& while_waiting);

  /// Steps done: where another stream must begin to go on after the last batch returned.
  std::uint64_t step() const noexcept { return step_.load(); }
  void close();
  bool is_forked() const noexcept;

 private:
  struct Slot {
    std::optional<Batch> batch;
    std::exception_ptr error;
    bool ready = false;
  };

  void require_open() const;
  bool look_for_a_slot(std::unique_lock<std::mutex>& lock);
  std::optional<Batch> read_next();
  void start();
  void fill_slots(std::size_t thread);
  void fill(Slot& slot, std::uint64_t step, std::size_t thread);

  std::shared_ptr<const BatchPlan> plan_;
  Options options_;
  pid_t process_;
  std::atomic<std::uint64_t> step_;  // of the batch that is returned next
  std::vector<BatchReader> readers_;
  std::vector<std::vector<std::int64_t>> ids_;

  std::mutex reading_;  // without threads
  std::mutex mutex_;    // of what follows, and of changes of step_
  std::condition_variable slot_ready_;
  std::condition_variable slot_free_;
  std::vector<Slot> slots_;
  std::uint64_t step_to_fill_;
  std::atomic<std::uint64_t> num_filled_{0};  // read without the lock too
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace pycat
