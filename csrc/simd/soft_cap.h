#pragma once

// Soft caps of logits and attention scores. The source of each instruction set includes this file
// after it defines the vector functions that cross_entropy/linear_loop.h lists.

#include "simd/tile_product.h"

namespace pycat {
namespace {

/// cap tanh(x / cap); -inf stays -inf, the mark of a row beyond the vocabulary.
PYCAT_INLINE Floats soft_cap(Floats x, float cap) {
  const Floats zero = broadcast(0.0F);
  const Floats one = broadcast(1.0F);
  const Floats t = x * broadcast(1.0F / cap);
  // Up to 1 the fifth convergent of the continued fraction of tanh (relative error 6e-8): the
  // exponential form would lose the digits of small values.
  const Floats square = t * t;
  const Floats numerator = multiply_add(square, square + broadcast(105.0F), broadcast(945.0F));
  const Floats denominator = multiply_add(
      square, multiply_add(square, broadcast(15.0F), broadcast(420.0F)), broadcast(945.0F));
  const Floats magnitude = max(t, zero - t);
  const Floats e = exponential(zero - (magnitude + magnitude));
  const Floats large = (one - e) / (one + e);
  const Floats tanh = select_greater(magnitude, one, select_greater(zero, t, zero - large, large),
                                     t * (numerator / denominator));
  return select_greater(x, broadcast(-3e38F), broadcast(cap) * tanh, x);
}

}  // namespace
}  // namespace pycat
