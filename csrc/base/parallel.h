#pragma once

#include <algorithm>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace pycat {

/// Calls `part(begin, end)` on equal shares of [0, count) and returns the least result. Shares are
/// not smaller than `min_share`; one share runs on the calling thread alone. `part` must not throw.
template <typename Part>
std::uint64_t parallel_min(std::uint64_t count, std::uint64_t min_share, const Part& part) {
  const std::uint64_t cores = std::max(1u, std::thread::hardware_concurrency());
  const std::uint64_t num_shares = std::clamp<std::uint64_t>(count / min_share, 1, cores);
  std::vector<std::uint64_t> results(num_shares);
  const auto run = [&](std::uint64_t share) {
    results[share] = part(count * share / num_shares, count * (share + 1) / num_shares);
  };
  std::vector<std::thread> threads;
  threads.reserve(num_shares);
  try {
    while (threads.size() + 1 < num_shares) threads.emplace_back(run, threads.size() + 1);
  } catch (const std::system_error&) {
    // No more threads to be had: the rest is done here.
  }
  for (std::uint64_t share = threads.size() + 1; share < num_shares; ++share) run(share);
  run(0);
  for (std::thread& thread : threads) thread.join();
  return *std::min_element(results.begin(), results.end());
}

}  // namespace pycat
