#pragma once

namespace pycat {
namespace {

// 2^f on [0, 1) by 1 + f (c1 + f (c2 + ...)): least largest relative error for degree 5, 8.2e-8,
// found by Remez exchange; exact at 0. Degree 4 would leave 3e-6, degree 6 more than float32 holds.
constexpr float kLog2E = 1.44269504F;
constexpr float kSeries1 = 0.6931513F;
constexpr float kSeries2 = 0.24016444F;
constexpr float kSeries3 = 0.055799913F;
constexpr float kSeries4 = 0.009017031F;
constexpr float kSeries5 = 0.00186713F;

}  // namespace
}  // namespace pycat
