#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/file_descriptor.h"

namespace pycat {

/// A file that is written beside `target`, without a name where the file system allows that, so
/// that nothing is left of it if the process is killed. publish() makes it `target`; the destructor
/// removes a file that was not published.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::filesystem::path target);
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile();

  /// Appends through a buffer.
  void append(const void* bytes, std::size_t num_bytes);
  void flush();

  /// Reads or overwrites bytes. They must have been flushed.
  void read_at(std::uint64_t offset, void* bytes, std::size_t num_bytes) const;
  void write_at(std::uint64_t offset, const void* bytes, std::size_t num_bytes);

  /// Flushes and waits until the bytes are on the disk.
  void sync();
  void publish();

 private:
  void write(const std::byte* bytes, std::size_t num_bytes);
  void take_name();

  std::filesystem::path target_;
  std::filesystem::path path_;  // the temporary name, empty while there is none
  FileDescriptor file_;
  std::vector<std::byte> buffer_;
};

/// sync() waits until renames within `folder` are on the disk.
class FolderSync {
 public:
  explicit FolderSync(const std::filesystem::path& folder);
  void sync();

 private:
  std::filesystem::path folder_;
  FileDescriptor file_;
};

}  // namespace pycat
