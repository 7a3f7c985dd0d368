#pragma once

namespace pycat {

/// a / b, rounded up, for a >= 0 and b > 0. Does not overflow.
template <typename Integer>
constexpr Integer divide_up(Integer a, Integer b) noexcept {
  return a / b + (a % b != 0 ? 1 : 0);
}

/// The smallest multiple of `b` that is not below `a`, for a >= 0 and b > 0.
template <typename Integer>
constexpr Integer round_up(Integer a, Integer b) noexcept {
  return divide_up(a, b) * b;
}

}  // namespace pycat
