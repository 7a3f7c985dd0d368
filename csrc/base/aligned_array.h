#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace pycat {

/// Uninitialised memory aligned to cache lines: a vector that crosses two lines costs two accesses.
template <class T>
class AlignedArray {
 public:
  AlignedArray() = default;
  explicit AlignedArray(std::int64_t size)
      : data_(static_cast<T*>(::operator new(static_cast<std::size_t>(size) * sizeof(T), kLine))) {}

  T* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Delete {
    void operator()(T* data) const { ::operator delete(data, kLine); }
  };
  std::unique_ptr<T, Delete> data_;
};

}  // namespace pycat
