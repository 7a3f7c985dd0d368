#pragma once

#include <cstdint>
#include <functional>

namespace pycat {

/// Calls work(task, worker) for every task, each worker on one thread: the caller is worker 0,
/// others last for this call only. Tasks go to whoever is free, as one core may have a busy
/// neighbour; at one thread nothing is started. `work` must not throw.
void run_tasks(std::int64_t num_tasks, std::int64_t num_threads,
               const std::function<void(std::int64_t task, std::int64_t worker)>& work);

}  // namespace pycat
