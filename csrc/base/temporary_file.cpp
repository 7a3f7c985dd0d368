#include "base/temporary_file.h"

#include <cerrno>
#include <cstdio>
#include <string>
#include <utility>

namespace pycat {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;
constexpr mode_t kMode = 0666;  // before the umask

}  // namespace

TemporaryFile::TemporaryFile(std::filesystem::path target) : target_(std::move(target)) {
  buffer_.reserve(kBufferBytes);
  // The number skips temporaries of killed runs and of writers that still run.
  for (int number = 0;; ++number) {
    path_ = target_.native() + ".tmp" + std::to_string(number);
    try {
      file_ = FileDescriptor(path_, O_RDWR | O_CREAT | O_EXCL, kMode);
      return;
    } catch (const FileError& error) {
      if (error.code() != std::errc::file_exists) throw;
    }
  }
}

TemporaryFile::~TemporaryFile() {
  if (!path_.empty()) ::unlink(path_.c_str());
}

void TemporaryFile::append(const void* bytes, std::size_t num_bytes) {
  const auto* begin = static_cast<const std::byte*>(bytes);
  if (buffer_.size() + num_bytes > kBufferBytes) flush();
  if (num_bytes >= kBufferBytes) {
    write(begin, num_bytes);
  } else {
    buffer_.insert(buffer_.end(), begin, begin + num_bytes);
  }
}

void TemporaryFile::flush() {
  write(buffer_.data(), buffer_.size());
  buffer_.clear();
}

void TemporaryFile::write(const std::byte* bytes, std::size_t num_bytes) {
  while (num_bytes > 0) {
    const ssize_t written = ::write(file_.get(), bytes, num_bytes);
    if (written < 0) {
      if (errno == EINTR) continue;
      throw FileError(errno, path_);
    }
    bytes += written;
    num_bytes -= static_cast<std::size_t>(written);
  }
}

void TemporaryFile::read_at(std::uint64_t offset, void* bytes, std::size_t num_bytes) const {
  auto* to = static_cast<std::byte*>(bytes);
  while (num_bytes > 0) {
    const ssize_t num_read = ::pread(file_.get(), to, num_bytes, static_cast<off_t>(offset));
    if (num_read < 0 && errno == EINTR) continue;
    if (num_read <= 0)
      throw FileError(num_read < 0 ? errno : EIO, path_);  // 0: another process cut the file
    to += num_read;
    offset += static_cast<std::uint64_t>(num_read);
    num_bytes -= static_cast<std::size_t>(num_read);
  }
}

void TemporaryFile::write_at(std::uint64_t offset, const void* bytes, std::size_t num_bytes) {
  const auto* from = static_cast<const std::byte*>(bytes);
  while (num_bytes > 0) {
    const ssize_t written = ::pwrite(file_.get(), from, num_bytes, static_cast<off_t>(offset));
    if (written < 0) {
      if (errno == EINTR) continue;
      throw FileError(errno, path_);
    }
    from += written;
    offset += static_cast<std::uint64_t>(written);
    num_bytes -= static_cast<std::size_t>(written);
  }
}

void TemporaryFile::sync() {
  flush();
  if (::fsync(file_.get()) != 0) throw FileError(errno, path_);
}

void TemporaryFile::publish() {
  if (std::rename(path_.c_str(), target_.c_str()) != 0) throw FileError(errno, target_);
  path_.clear();
}

FolderSync::FolderSync(const std::filesystem::path& folder)
    : folder_(folder.empty() ? "." : folder), file_(folder_, O_RDONLY | O_DIRECTORY) {}

void FolderSync::sync() {
  // EINVAL says that the file system cannot sync folders.
  if (::fsync(file_.get()) != 0 && errno != EINVAL) throw FileError(errno, folder_);
}

}  // namespace pycat
