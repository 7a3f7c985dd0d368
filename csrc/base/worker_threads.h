#pragma once

#include <cstdint>
#include <functional>

namespace pycat {

/// Calls work(task, worker) for every task in [0, num_tasks). Each worker is one thread: worker 0
/// is the caller, and the others last for this call only. A task goes to the next free worker,
/// since cores may differ in speed. With one thread or one task no thread is started. `work` must
/// not throw.
void run_tasks(std::int64_t num_tasks, std::int64_t num_threads,
               const std::function<void(std::int64_t task, std::int64_t worker)>& work);

}  // namespace pycat
