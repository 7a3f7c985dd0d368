#pragma once

#include <cstddef>

namespace pycat {

struct WatchedRange;

/// Keeps a read of a vanished page from killing the process.
///
/// A file that shrinks while it is mapped, or a disk that fails, raises SIGBUS in whatever thread
/// touches the page, be it ours or one that reads a zero-copy view. For ranges watched here the
/// handler puts zeros in its place and that of all that follows, and notes the loss, which readers
/// must ask for after they have read. Any other SIGBUS goes to the handler that was there before.
class LostPages {
 public:
  LostPages() = default;
  LostPages(const std::byte* begin, std::size_t num_bytes);
  LostPages(LostPages&& other) noexcept;
  LostPages& operator=(LostPages&& other) noexcept;
  ~LostPages();

  bool any() const noexcept;

  /// Sets the handler again where another library has since set its own, which ours then calls.
  /// To be called before each read; cheap while there is nothing to do.
  static void renew_handler();

 private:
  WatchedRange* range_ = nullptr;
};

}  // namespace pycat
