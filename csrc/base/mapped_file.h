#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <filesystem>

#include "base/file_descriptor.h"
#include "base/sigbus_guard.h"

namespace pycat {

/// A whole regular file mapped read-only. An empty file has a null data() and size 0.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::byte* data() const noexcept { return data_; }
  std::uint64_t size() const noexcept { return size_; }
  const std::filesystem::path& path() const noexcept { return path_; }

  /// Throws CorpusError if the file was cut short, rewritten, replaced or removed since it was
  /// mapped. Otherwise everything read so far is what the file held when it was opened.
  void require_unchanged() const;

  /// Identifies a file and the state of its content.
  struct Identity {
    dev_t device;
    ino_t inode;
    off_t num_bytes;
    std::timespec modified;

    bool operator==(const Identity& other) const noexcept {
      return device == other.device && inode == other.inode && num_bytes == other.num_bytes &&
             modified.tv_sec == other.modified.tv_sec && modified.tv_nsec == other.modified.tv_nsec;
    }
  };
  const Identity& identity() const noexcept { return identity_; }

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
  Identity identity_{};
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  SigbusGuard sigbus_guard_;
};

}  // namespace pycat
