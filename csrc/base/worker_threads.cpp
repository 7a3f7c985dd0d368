#include "base/worker_threads.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace pycat {
namespace {

/// Threads that are joined even if an exception is thrown.
struct Team {
  std::vector<std::thread> threads;
  ~Team() {
    for (std::thread& thread : threads) thread.join();
  }
};

}  // namespace

void run_tasks(std::int64_t num_tasks, std::int64_t num_threads,
               const std::function<void(std::int64_t, std::int64_t)>& work) {
  std::atomic<std::int64_t> next{0};
  const auto take_tasks = [&](std::int64_t worker) {
    for (std::int64_t task = next++; task < num_tasks; task = next++) work(task, worker);
  };
  Team team;
  try {
    for (std::int64_t worker = 1; worker < std::min(num_threads, num_tasks); ++worker) {
      team.threads.emplace_back(take_tasks, worker);
    }
  } catch (const std::system_error&) {
    // The system refuses more threads: the existing ones do all tasks.
  }
  take_tasks(0);
}

}  // namespace pycat
