#pragma once

namespace pycat {
namespace {

// 2^f on [0, 1) as the polynomial 1 + f (c1 + f (c2 + ...)) of degree 5. Remez exchange found the
// coefficients: the largest relative error is 8.2e-8, and 2^0 is exact. Degree 4 has an error of
// 3e-6; degree 6 would be more precise than float32.
constexpr float kLog2E = 1.44269504F;
constexpr float kSeries1 = 0.6931513F;
constexpr float kSeries2 = 0.24016444F;
constexpr float kSeries3 = 0.055799913F;
constexpr float kSeries4 = 0.009017031F;
constexpr float kSeries5 = 0.00186713F;

}  // namespace
}  // namespace pycat
