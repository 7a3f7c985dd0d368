#include "base/temporary_file.h"

#include <cerrno>
#include <cstdio>
#include <string>
#include <utility>

namespace pycat {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;
constexpr mode_t kMode = 0666;  // before the umask

/// A name that pycat.runtime.publishing recognises as that of a file left by a killed process. The
/// number skips those, and the files of writers that still run.
std::filesystem::path temporary_name(const std::filesystem::path& target, int number) {
  return target.parent_path() /
         ("." + target.filename().native() + "." + std::to_string(::getpid()) + "." +
          std::to_string(number) + ".tmp");
}

std::string link_to(const FileDescriptor& file) {
  return "/proc/self/fd/" + std::to_string(file.get());
}

/// -1 where the file system or the kernel has no files without names, or no name leads to them.
FileDescriptor open_nameless(const std::filesystem::path& target) {
#ifdef O_TMPFILE
  const std::filesystem::path folder = target.has_parent_path() ? target.parent_path() : ".";
  FileDescriptor file(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, kMode));
  if (file.get() >= 0 && ::access(link_to(file).c_str(), F_OK) == 0) return file;
#endif
  return FileDescriptor(-1);
}

}  // namespace

TemporaryFile::TemporaryFile(std::filesystem::path target) : target_(std::move(target)) {
  buffer_.reserve(kBufferBytes);
  file_ = open_nameless(target_);
  for (int number = 0; file_.get() < 0; ++number) {
    path_ = temporary_name(target_, number);
    const int fd = ::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, kMode);
    if (fd < 0 && errno != EEXIST) {
      path_.clear();
      throw FileError(errno, target_);
    }
    file_ = FileDescriptor(fd);
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
      throw FileError(errno, target_);
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
      throw FileError(num_read < 0 ? errno : EIO, target_);  // 0: another process cut the file
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
      throw FileError(errno, target_);
    }
    from += written;
    offset += static_cast<std::uint64_t>(written);
    num_bytes -= static_cast<std::size_t>(written);
  }
}

void TemporaryFile::sync() {
  flush();
  if (::fsync(file_.get()) != 0) throw FileError(errno, target_);
}

void TemporaryFile::take_name() {
  for (int number = 0; path_.empty(); ++number) {
    const std::filesystem::path name = temporary_name(target_, number);
    if (::linkat(AT_FDCWD, link_to(file_).c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) ==
        0) {
      path_ = name;
    } else if (errno != EEXIST) {
      throw FileError(errno, target_);
    }
  }
}

void TemporaryFile::publish() {
  take_name();
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
