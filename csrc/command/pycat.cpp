// The command `pycat`: runs the console script `pycat-main` beside it, with Ctrl-C held back.
//
// While Python starts, it answers Ctrl-C with a traceback, before any module of pycat could prevent
// that. A signal that is blocked stays pending when a process executes another program, and comes
// when pycat.runtime.interrupts unblocks it.

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

namespace {

constexpr char kSuffix[] = "-main";

}  // namespace

int main(int, char** argv) {
  char path[PATH_MAX + sizeof kSuffix];
  const ssize_t size = readlink("/proc/self/exe", path, PATH_MAX);
  // Without /proc, the shell's search finds the script where it found this program.
  if (size > 0) {
    memcpy(path + size, kSuffix, sizeof kSuffix);
  } else {
    strcpy(path, "pycat-main");
  }

  sigset_t interrupt;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  sigprocmask(SIG_BLOCK, &interrupt, nullptr);
  execvp(path, argv);
  perror(path);
  return 127;
}
