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
/// At most `prefetch` batches are ready at a time. The batches and every byte of them are the same
/// for any number of threads, 0 included. Any thread may call next(); each batch goes to one
/// caller.
///
/// A forked process has a copy of the stream without its threads, and with its locks as they were.
/// There only is_forked() and close() may be called, and the stream may not be destroyed.
class BatchStream {
 public:
  struct Options {
    BatchPlan::Epoch epoch;
    std::int64_t rank;
    std::uint64_t first_step;
    std::size_t prefetch;
    std::size_t num_threads;  // 0: next() reads each batch itself
  };

  BatchStream(std::shared_ptr<const IndexedFile> src, std::shared_ptr<const IndexedFile> tgt,
              std::shared_ptr<const BatchPlan> plan, BatchFormat format, std::vector<Block> blocks,
              Options options);
  BatchStream(const BatchStream&) = delete;
  BatchStream& operator=(const BatchStream&) = delete;
  ~BatchStream();

  /// The next batch, or none at the end of the epoch. Calls `check_interrupt`, which may throw,
  /// from time to time. A batch that could not be read throws its error in its turn, and again at
  /// each call after that.
  std::optional<Batch> next(const std::function<void()>& check_interrupt);

  /// The first step of a stream that continues after the last batch returned.
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
  bool spin_for_slot(std::unique_lock<std::mutex>& lock);
  std::optional<Batch> read_next();
  void start();
  void fill_slots(std::size_t thread);
  void fill(Slot& slot, std::uint64_t step, std::size_t thread);

  std::shared_ptr<const BatchPlan> plan_;
  Options options_;
  pid_t process_;
  std::atomic<std::uint64_t> step_;  // the step of the next batch returned
  std::vector<BatchReader> readers_;
  std::vector<std::vector<std::int64_t>> ids_;

  std::mutex reading_;  // serialises reading where there are no threads
  std::mutex mutex_;    // guards all below, and changes of step_
  std::condition_variable slot_ready_;
  std::condition_variable slot_free_;
  std::vector<Slot> slots_;
  std::uint64_t step_to_fill_;
  std::atomic<std::uint64_t> num_filled_{0};  // also read without the lock
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace pycat
