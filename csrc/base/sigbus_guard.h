#pragma once

#include <cstddef>

namespace pycat {

struct WatchedRange;

/// Keeps a read of a lost page of a mapped file from killing the process.
///
/// When a mapped file shrinks or its disk fails, the system raises SIGBUS in the thread that
/// touches a lost page. That may be any thread that reads a zero-copy view. The handler installed
/// here replaces the page and all pages of the watched range behind it by zeros, and records the
/// loss. Readers must call has_lost_pages() after they have read. Any other SIGBUS goes to the
/// handler that was installed before.
class SigbusGuard {
 public:
  SigbusGuard() = default;
  SigbusGuard(const std::byte* begin, std::size_t num_bytes);
  SigbusGuard(SigbusGuard&& other) noexcept;
  SigbusGuard& operator=(SigbusGuard&& other) noexcept;
  ~SigbusGuard();

  /// Whether a page of the range was lost since it is watched.
  bool has_lost_pages() const noexcept;

  /// Installs the handler again if another library has replaced it, and from then on passes signals
  /// to that library's handler. Call it before each read; it is cheap where nothing was replaced.
  static void renew_handler();

 private:
  WatchedRange* range_ = nullptr;
};

}  // namespace pycat
