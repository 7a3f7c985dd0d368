#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace pycat {

/// A corpus file is damaged, missing or of a kind that pycat does not read. Python sees it as
/// pycat.errors.CorpusError.
class CorpusError : public std::runtime_error {
 public:
  CorpusError(const std::filesystem::path& file, const std::string& what)
      : std::runtime_error(file.string() + ": " + what) {}
};

/// A system call failed on a file. Python sees it as OSError(errno, text, path), which tells a full
/// disk from a missing permission.
class FileError : public std::system_error {
 public:
  FileError(int error_number, std::filesystem::path path)
      : std::system_error(error_number, std::generic_category(), path.string()),
        path_(std::move(path)) {}

  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace pycat
