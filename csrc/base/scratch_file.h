#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace pycat {

/// Zeroed bytes to work on: in memory while they are few, else in a mapped file without a name,
/// which the system writes out when memory is short and removes with the process.
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
