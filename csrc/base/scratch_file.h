#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace pycat {

/// Zeroed bytes: up to 16 MB in memory, more in a mapped file without a name. The system writes
/// such a file out when memory is short, and removes it with the process.
class ScratchFile {
 public:
  ScratchFile(const std::filesystem::path& folder, std::uint64_t num_bytes);
  ScratchFile(ScratchFile&& other) noexcept;
  ScratchFile& operator=(ScratchFile&& other) noexcept;
  ~ScratchFile();

  std::byte* data() noexcept { return data_; }
  const std::byte* data() const noexcept { return data_; }
  std::uint64_t size() const noexcept { return num_bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::uint64_t num_bytes_ = 0;
};

}  // namespace pycat
