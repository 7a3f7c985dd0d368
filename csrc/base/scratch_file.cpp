#include "base/scratch_file.h"

#include <sys/mman.h>

#include <cerrno>
#include <string>
#include <utility>

#include "base/errors.h"
#include "base/file_descriptor.h"

namespace pycat {
namespace {

constexpr std::uint64_t kMaxInMemoryBytes = 16 << 20;

FileDescriptor open_unnamed(const std::filesystem::path& folder) {
#ifdef O_TMPFILE
  const int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0) return FileDescriptor(fd);
#endif
  std::string path = (folder / "pycat-XXXXXX").native();
  const int named = ::mkostemp(path.data(), O_CLOEXEC);
  if (named < 0) throw FileError(errno, folder);
  ::unlink(path.c_str());
  return FileDescriptor(named);
}

}  // namespace

ScratchFile::ScratchFile(const std::filesystem::path& folder, std::uint64_t num_bytes)
    : num_bytes_(num_bytes) {
  if (num_bytes == 0) return;  // mmap refuses a length of 0
  void* address = nullptr;
  if (num_bytes <= kMaxInMemoryBytes) {
    address =
        ::mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  } else {
    const FileDescriptor file = open_unnamed(folder);
    // Space is reserved now: a write to a full disk through the mapping would end the process.
    int error = EINTR;
    while (error == EINTR) {
      error = ::posix_fallocate(file.get(), 0, static_cast<off_t>(num_bytes));
    }
    if (error != 0) throw FileError(error, folder);
    address = ::mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  }
  if (address == MAP_FAILED) throw FileError(errno, folder);
  data_ = static_cast<std::byte*>(address);
}

ScratchFile::ScratchFile(ScratchFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), num_bytes_(std::exchange(other.num_bytes_, 0)) {}

ScratchFile& ScratchFile::operator=(ScratchFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(num_bytes_, other.num_bytes_);
  return *this;
}

ScratchFile::~ScratchFile() {
  if (data_ != nullptr) ::munmap(data_, num_bytes_);
}

}  // namespace pycat
