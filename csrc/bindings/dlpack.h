#pragma once

#include <cstdint>

// The structures of DLPack for tensors in CPU memory, in the form without a version, which every
// consumer accepts: https://dmlc.github.io/dlpack/latest/c_api.html

extern "C" {

struct DLDevice {
  std::int32_t device_type;  // 1: CPU
  std::int32_t device_id;
};

struct DLDataType {
  std::uint8_t code;  // 0: signed integers
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // null: contiguous
  std::uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);
};
}
