#include "base/mapped_file.h"

#include <sys/mman.h>

#include <string>
#include <utility>

#include "base/errors.h"

namespace pycat {

// O_NONBLOCK lets a named pipe be refused below instead of waiting for a writer.
MappedFile::MappedFile(const std::filesystem::path& path)
    : path_(path), file_(path, O_RDONLY | O_NONBLOCK) {
  struct stat status{};
  if (::fstat(file_.get(), &status) != 0) throw FileError(errno, path);
  if (!S_ISREG(status.st_mode)) throw CorpusError(path, "is not a regular file");
  identity_ = {status.st_dev, status.st_ino, status.st_size, status.st_mtim};
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;  // mmap refuses a length of 0

  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_.get(), 0);
  if (address == MAP_FAILED) throw FileError(errno, path);
  data_ = static_cast<const std::byte*>(address);
  sigbus_guard_ = SigbusGuard(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(file_, other.file_);
  std::swap(identity_, other.identity_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(sigbus_guard_, other.sigbus_guard_);
  return *this;
}

MappedFile::~MappedFile() {
  sigbus_guard_ = SigbusGuard();  // stop watching before the addresses can be mapped anew
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::require_unchanged() const {
  struct stat now{};
  if (::fstat(file_.get(), &now) != 0) throw FileError(errno, path_);
  if (now.st_nlink == 0) {
    throw CorpusError(path_, "was replaced or removed since it was opened; open it again");
  }
  if (now.st_size != identity_.num_bytes) {
    throw CorpusError(path_, "has " + std::to_string(now.st_size) + " bytes, expected the " +
                                 std::to_string(identity_.num_bytes) +
                                 " it had when it was opened; put the whole file back and open "
                                 "it again");
  }
  if (now.st_mtim.tv_sec != identity_.modified.tv_sec ||
      now.st_mtim.tv_nsec != identity_.modified.tv_nsec) {
    throw CorpusError(path_, "was written to since it was opened; open it again");
  }
  if (sigbus_guard_.has_lost_pages()) {
    throw CorpusError(path_,
                      "could not be read in full: it was cut short for a time, or the disk fails; "
                      "check the disk, then open it again");
  }
}

}  // namespace pycat
