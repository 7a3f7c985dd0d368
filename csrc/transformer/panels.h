#pragma once

#include <algorithm>
#include <cstdint>

#include "base/aligned_array.h"

namespace pycat {

/// Float32 features of tokens in panels: feature f of the token in lane i of panel p is at
/// panel(p)[f * row_stride + i].
struct Panels {
  float* data;
  std::int64_t count;
  std::int64_t panel_floats;  // from one panel to the next
  std::int64_t row_stride;    // from one feature to the next

  float* panel(std::int64_t p) const { return data + p * panel_floats; }
};

/// Features of tokens as a linear layer reads them: words of a PanelFormat, and a scale for each
/// token where the format has scales.
struct PackedPanels {
  std::uint32_t* words;
  float* scales;
  std::int64_t count;
  std::int64_t panel_words;   // from one panel to the next
  std::int64_t panel_tokens;  // scales of a panel

  std::uint32_t* panel(std::int64_t p) const { return words + p * panel_words; }
  float* panel_scales(std::int64_t p) const { return scales + p * panel_tokens; }
};

/// Panels [first, first + count).
inline Panels slice(const Panels& panels, std::int64_t first, std::int64_t count) {
  return {panels.panel(first), count, panels.panel_floats, panels.row_stride};
}
inline PackedPanels slice(const PackedPanels& panels, std::int64_t first, std::int64_t count) {
  return {panels.panel(first), panels.panel_scales(first), count, panels.panel_words,
          panels.panel_tokens};
}

/// Memory that grows to the largest size asked for so far. Later calls use it again, without page
/// faults.
template <class T>
class Buffer {
 public:
  /// At least `size` elements, which hold any values.
  T* at_least(std::int64_t size) {
    if (size > size_) {
      array_ = AlignedArray<T>(size);
      size_ = size;
      std::fill_n(array_.data(), size, T{});
    }
    return array_.data();
  }

 private:
  AlignedArray<T> array_;
  std::int64_t size_ = 0;
};

/// Memory of PackedPanels.
struct PackedBuffer {
  Buffer<std::uint32_t> words;
  Buffer<float> scales;
};

}  // namespace pycat
