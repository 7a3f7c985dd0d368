#include "base/sigbus_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <mutex>
#include <utility>

namespace pycat {

// A range in the list that the handler walks without a lock: ranges are reused and never freed.
struct WatchedRange {
  std::atomic<std::uintptr_t> begin{0};  // 0 while unused
  std::atomic<std::uintptr_t> end{0};
  std::atomic<bool> lost{false};
  WatchedRange* next = nullptr;
};

namespace {

std::mutex mutex;
std::atomic<WatchedRange*> ranges{nullptr};
std::atomic<std::uintptr_t> page_bytes{0};
struct sigaction previous{};
bool previous_may_call_ours = false;

// Set while a thread runs the previous handler. The initial-exec TLS model never allocates in a
// handler; another model may, on the first use.
__attribute__((tls_model("initial-exec"))) thread_local volatile std::sig_atomic_t delegating = 0;

WatchedRange* find(std::uintptr_t address) noexcept {
  for (WatchedRange* range = ranges.load(); range != nullptr; range = range->next) {
    const std::uintptr_t begin = range->begin.load();
    if (begin == 0 || begin > address || address >= range->end.load()) continue;
    if (range->begin.load() == begin) return range;  // otherwise it was reused in between
  }
  return nullptr;
}

/// Maps zeros from the page of `address` to `end`, in one mapping: one mapping for each page of a
/// large file would exceed the number that a process may have.
bool map_zeros(std::uintptr_t address, std::uintptr_t end) noexcept {
  const std::uintptr_t page = address - address % page_bytes.load();
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
#ifdef __SANITIZE_THREAD__
  // ThreadSanitizer takes mmap for a write to pages that other threads read: the system call is
  // made without it.
  return ::syscall(SYS_mmap, page, end - page, PROT_READ, flags, -1, 0) != -1;
#else
  return ::mmap(reinterpret_cast<void*>(page), end - page, PROT_READ, flags, -1, 0) != MAP_FAILED;
#endif
}

void end_process(int signal, const siginfo_t* info) {
  struct sigaction fallback{};
  fallback.sa_handler = SIG_DFL;
  ::sigaction(signal, &fallback, nullptr);
  // A failed access is repeated on return, and then ends the process as it would without this
  // handler.
  if (info->si_code <= 0) ::raise(signal);
}

void call_previous(int signal, siginfo_t* info, void* context) {
  const bool takes_info = (previous.sa_flags & SA_SIGINFO) != 0;
  if (!takes_info && previous.sa_handler == SIG_IGN && info->si_code <= 0) return;
  const bool exists =
      takes_info || (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN);
  if (!exists || delegating != 0) return end_process(signal, info);
  // A handler that was installed after ours may call ours, or install ours again and raise the
  // signal (as faulthandler does). `delegating` ends that recursion.
  if (previous_may_call_ours) delegating = 1;
  takes_info ? previous.sa_sigaction(signal, info, context) : previous.sa_handler(signal);
  delegating = 0;
}

void handle(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  // si_code is positive if the kernel raised the signal for an access; a signal sent has no
  // address.
  WatchedRange* range = info->si_code > 0 ? find(address) : nullptr;
  // Recorded before the zeros are mapped: other threads may read these at once.
  if (range != nullptr) range->lost.store(true);
  if (range == nullptr || !map_zeros(address, range->end.load())) {
    call_previous(signal, info, context);
  }
  errno = saved_errno;
}

bool is_installed(struct sigaction& current) {
  ::sigaction(SIGBUS, nullptr, &current);
  return (current.sa_flags & SA_SIGINFO) != 0 && current.sa_sigaction == handle;
}

void install_handler() {
  struct sigaction current{};
  if (is_installed(current)) return;
  static bool installed_before = false;
  previous_may_call_ours = std::exchange(installed_before, true);
  previous = current;
  struct sigaction ours{};
  ours.sa_sigaction = handle;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // the previous handler may raise it again
  ::sigemptyset(&ours.sa_mask);
  ::sigaction(SIGBUS, &ours, nullptr);
}

}  // namespace

SigbusGuard::SigbusGuard(const std::byte* begin, std::size_t num_bytes) {
  if (num_bytes == 0) return;
  const std::lock_guard<std::mutex> lock(mutex);
  page_bytes.store(static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE)));
  WatchedRange* range = ranges.load();
  while (range != nullptr && range->begin.load() != 0) range = range->next;
  if (range == nullptr) {
    range = new WatchedRange;
    range->next = ranges.load();
    ranges.store(range);
  }
  range->lost.store(false);
  range->end.store(reinterpret_cast<std::uintptr_t>(begin) + num_bytes);
  range->begin.store(reinterpret_cast<std::uintptr_t>(begin));
  range_ = range;
  install_handler();
}

SigbusGuard::SigbusGuard(SigbusGuard&& other) noexcept
    : range_(std::exchange(other.range_, nullptr)) {}

SigbusGuard& SigbusGuard::operator=(SigbusGuard&& other) noexcept {
  std::swap(range_, other.range_);
  return *this;
}

SigbusGuard::~SigbusGuard() {
  if (range_ == nullptr) return;
  const std::lock_guard<std::mutex> lock(mutex);
  range_->begin.store(0);
}

bool SigbusGuard::has_lost_pages() const noexcept {
  return range_ != nullptr && range_->lost.load();
}

void SigbusGuard::renew_handler() {
  struct sigaction current{};
  if (is_installed(current)) return;  // without the lock, which every read would take
  const std::lock_guard<std::mutex> lock(mutex);
  install_handler();
}

}  // namespace pycat
