#pragma once

#include "simd/whole_numbers.h"
#include "transformer/linear.h"

namespace pycat {
namespace {

/// Whole numbers of a Dot, as simd/whole_numbers.h describes it. A token's scale is not known
/// before all of its features are, so activations leave float32 rows.
template <class Dot>
struct WholeNumberFormat : WholeNumbers<Dot>, Float32Rows {
  static constexpr bool kActivatesToWords = false;
};

}  // namespace
}  // namespace pycat
