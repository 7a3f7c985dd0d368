#include "corpus/batch_stream.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "base/errors.h"

namespace pycat {
namespace {

constexpr std::chrono::microseconds kSpinTime{50};
constexpr std::chrono::milliseconds kPollInterval{100};  // between checks for an interrupt

}  // namespace

BatchStream::BatchStream(std::shared_ptr<const IndexedFile> src,
                         std::shared_ptr<const IndexedFile> tgt,
                         std::shared_ptr<const BatchPlan> plan, BatchFormat format,
                         std::vector<Block> blocks, Options options)
    : plan_(std::move(plan)),
      options_(options),
      process_(::getpid()),
      step_(options.first_step),
      step_to_fill_(options.first_step) {
  const std::int64_t world_size = plan_->options().world_size;
  if (options_.rank < 0 || options_.rank >= world_size) {
    throw std::invalid_argument("rank is " + std::to_string(options_.rank) +
                                ", expected 0 or more and below the world size " +
                                std::to_string(world_size));
  }
  if (step_ > plan_->num_steps()) {
    throw std::invalid_argument("first step is " + std::to_string(step_) + ", expected at most " +
                                std::to_string(plan_->num_steps()) + ", the steps of an epoch");
  }
  require_pairs(*src, *tgt);
  if (!plan_->order().is_of(*src, *tgt)) {
    throw CorpusError(src->prefix(),
                      "the batches were planned from other files, or from these before they "
                      "changed; plan them from the files that are to be read");
  }
  options_.prefetch = std::max<std::size_t>(options_.prefetch, 1);
  const std::size_t num_readers = std::max<std::size_t>(options_.num_threads, 1);
  // Enough for the batches that are ready and being filled, and for two that the consumer holds.
  const auto pool =
      std::make_shared<BlockPool>(std::move(blocks), options_.prefetch + num_readers + 2);
  for (std::size_t i = 0; i < num_readers; ++i) readers_.emplace_back(src, tgt, format, pool);
  ids_.resize(num_readers);
  slots_.resize(options_.num_threads == 0 ? 1 : options_.prefetch);
}

BatchStream::~BatchStream() { close(); }

bool BatchStream::is_forked() const noexcept { return process_ != ::getpid(); }

void BatchStream::close() {
  if (is_forked()) return;
  std::vector<std::thread> threads;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  slot_free_.notify_all();
  slot_ready_.notify_all();
  for (std::thread& thread : threads) thread.join();
}

void BatchStream::require_open() const {
  if (stopping_) throw std::runtime_error("the batch stream is closed; make another");
}

std::optional<Batch> BatchStream::next(const std::function<void()>& check_interrupt) {
  if (is_forked()) {
    throw std::runtime_error(
        "the batch stream was made in another process, whose threads are not in this one; make "
        "the stream after the process has forked");
  }
  if (options_.num_threads == 0) return read_next();
  std::unique_lock<std::mutex> lock(mutex_);
  require_open();
  start();
  while (step_ < plan_->num_steps()) {
    // Looked up each time: while the lock was free, another thread may have closed or gone on.
    Slot& slot = slots_[step_ % slots_.size()];
    if (slot.error) std::rethrow_exception(slot.error);
    if (slot.ready) {
      Slot taken = std::exchange(slot, Slot{});
      ++step_;
      slot_free_.notify_one();
      if (taken.batch) return std::move(taken.batch);
    } else if (!spin_for_slot(lock) &&
               slot_ready_.wait_for(lock, kPollInterval) == std::cv_status::timeout) {
      lock.unlock();
      check_interrupt();
      lock.lock();
    }
    require_open();
  }
  return std::nullopt;
}

/// Waits for a batch without sleeping, for kSpinTime at most, since waking up takes as long as
/// reading a batch. Returns whether one was read.
bool BatchStream::spin_for_slot(std::unique_lock<std::mutex>& lock) {
  const std::uint64_t before = num_filled_;
  lock.unlock();
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  while (num_filled_ == before && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  lock.lock();
  return num_filled_ != before;
}

std::optional<Batch> BatchStream::read_next() {
  const std::lock_guard<std::mutex> reading(reading_);
  while (true) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      require_open();
    }
    if (step_ >= plan_->num_steps()) return std::nullopt;
    Slot slot;
    fill(slot, step_, 0);
    if (slot.error) std::rethrow_exception(slot.error);
    ++step_;
    if (slot.batch) return std::move(slot.batch);
  }
}

void BatchStream::start() {
  if (!threads_.empty()) return;
  for (std::size_t i = 0; i < options_.num_threads; ++i) {
    try {
      threads_.emplace_back(&BatchStream::fill_slots, this, i);
    } catch (const std::system_error&) {
      if (i == 0) throw;
      return;  // fewer threads read the same batches
    }
  }
}

void BatchStream::fill_slots(std::size_t thread) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    slot_free_.wait(lock, [this] {
      return stopping_ || step_to_fill_ >= plan_->num_steps() ||
             step_to_fill_ < step_ + slots_.size();
    });
    if (stopping_ || step_to_fill_ >= plan_->num_steps()) break;
    const std::uint64_t step = step_to_fill_++;
    lock.unlock();
    Slot slot;
    fill(slot, step, thread);
    lock.lock();
    slots_[step % slots_.size()] = std::move(slot);
    ++num_filled_;
    slot_ready_.notify_all();
  }
  slot_free_.notify_all();
}

void BatchStream::fill(Slot& slot, std::uint64_t step, std::size_t thread) {
  try {
    const auto batch = plan_->batch_at(options_.epoch, step, options_.rank);
    if (batch) {
      plan_->pairs(options_.epoch, *batch, ids_[thread]);
      slot.batch = readers_[thread].read(ids_[thread]);
    }
  } catch (...) {
    slot.error = std::current_exception();
  }
  slot.ready = true;
}

}  // namespace pycat
