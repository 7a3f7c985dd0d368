#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/worker_threads.h"

namespace pycat {

/// How many shares to cut [0, count) into: one per core, but none smaller than `min_share`.
inline std::uint64_t num_shares(std::uint64_t count, std::uint64_t min_share) {
  const std::uint64_t cores = std::max(1u, std::thread::hardware_concurrency());
  return std::clamp<std::uint64_t>(count / min_share, 1, cores);
}

/// Calls work(share, begin, end) on `shares` equal shares of [0, count), each on a thread of its
/// own; one share runs on the calling thread alone. `work` must not throw.
template <typename Work>
void for_each_share(std::uint64_t count, std::uint64_t shares, const Work& work) {
  const auto num_tasks = static_cast<std::int64_t>(shares);
  run_tasks(num_tasks, num_tasks, [&](std::int64_t task, std::int64_t) {
    const auto share = static_cast<std::uint64_t>(task);
    work(share, count * share / shares, count * (share + 1) / shares);
  });
}

/// The results of part(begin, end) on each of the shares of [0, count). `part` must not throw.
template <typename Part>
std::vector<std::uint64_t> map_shares(std::uint64_t count, std::uint64_t min_share,
                                      const Part& part) {
  std::vector<std::uint64_t> results(num_shares(count, min_share));
  for_each_share(count, results.size(),
                 [&](std::uint64_t share, std::uint64_t begin, std::uint64_t end) {
                   results[share] = part(begin, end);
                 });
  return results;
}

/// The smallest result of part(begin, end) on shares of [0, count).
template <typename Part>
std::uint64_t parallel_min(std::uint64_t count, std::uint64_t min_share, const Part& part) {
  const std::vector<std::uint64_t> results = map_shares(count, min_share, part);
  return *std::min_element(results.begin(), results.end());
}

/// The largest result of part(begin, end) on shares of [0, count).
template <typename Part>
std::uint64_t parallel_max(std::uint64_t count, std::uint64_t min_share, const Part& part) {
  const std::vector<std::uint64_t> results = map_shares(count, min_share, part);
  return *std::max_element(results.begin(), results.end());
}

}  // namespace pycat
