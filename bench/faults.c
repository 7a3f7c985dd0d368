// Faults for `chaos.py`, preloaded before libc (LD_PRELOAD): the process is killed at the n-th call
// that creates, renames or removes a name, or so long after the first change of a name or a file,
// or finds the disk full after so many bytes. It sees the calls of Python, of the extension and of
// every library. Children that run a program read the same orders from the environment; those that
// are forked go on with them, and count anew. A moment is that of the armed process alone.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { kMaxWrites = 1 << 16, kSecond = 1000000000 };

static atomic_long num_calls, num_bytes, num_writes, num_changes;
static long sums[kMaxWrites];  // bytes written, up to and with each write
static long kill_at = -1, space = -1, moment = -1;
static int clock_used = CLOCK_MONOTONIC;
static long first_change, last_change;

static long now(void) {
  struct timespec time;
  clock_gettime((clockid_t)clock_used, &time);
  return time.tv_sec * kSecond + time.tv_nsec;
}

// Begins to count. -1 means no such fault; `after` is in nanoseconds of the clock.
void faults_arm(long at, long bytes, long after, int clock) {
  kill_at = at;
  space = bytes;
  moment = after;
  clock_used = clock;
  num_calls = num_bytes = num_writes = num_changes = first_change = last_change = 0;
}
long faults_calls(void) { return num_calls; }
long faults_writes(void) { return num_writes < kMaxWrites ? num_writes : kMaxWrites; }
long faults_sum(long write) { return sums[write]; }
// Nanoseconds from the first change to the last.
long faults_span(void) { return last_change - first_change; }

static void count_anew(void) { faults_arm(kill_at, space, -1, CLOCK_MONOTONIC); }

__attribute__((constructor)) static void arm_child(void) {
  const char* at = getenv("FAULTS_KILL_AT");
  const char* bytes = getenv("FAULTS_SPACE");
  faults_arm(at ? atol(at) : -1, bytes ? atol(bytes) : -1, -1, CLOCK_MONOTONIC);
  pthread_atfork(NULL, NULL, count_anew);
}

// Called at each change: the first one sets the clock by which the process is killed.
static void changes(void) {
  last_change = now();
  if (atomic_fetch_add(&num_changes, 1) > 0) return;
  first_change = last_change;
  if (moment < 0) return;
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
  timer_t timer;
  const struct itimerspec time = {.it_value = {moment / kSecond, moment % kSecond + 1}};
  if (timer_create((clockid_t)clock_used, &event, &timer) != 0) abort();
  if (timer_settime(timer, 0, &time, NULL) != 0) abort();
}

// Called before each call that changes names.
static void name_changes(const char* path) {
  if (strncmp(path, "/dev/", 5) == 0 && strncmp(path, "/dev/shm/", 9) != 0) return;
  if (strncmp(path, "/proc/", 6) == 0) return;
  changes();
  if (atomic_fetch_add(&num_calls, 1) + 1 == kill_at) kill(getpid(), SIGKILL);
}

// How many of so many bytes of a file fit on the disk; -1, and ENOSPC, if none does.
static long fitting(int fd, long bytes) {
  struct stat about;
  if (fd <= STDERR_FILENO || bytes == 0) return bytes;  // what a verb says goes to a file in a trial
  if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) return bytes;
  changes();
  const long before = atomic_fetch_add(&num_bytes, bytes);
  const long write = atomic_fetch_add(&num_writes, 1);
  if (write < kMaxWrites) sums[write] = before + bytes;
  if (space < 0 || before + bytes <= space) return bytes;
  if (before < space) return space - before;
  errno = ENOSPC;
  return -1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                \
  int name(const char* path, int flags, ...) {                                    \
    va_list rest;                                                                 \
    va_start(rest, flags);                                                        \
    const mode_t mode = va_arg(rest, mode_t);                                     \
    va_end(rest);                                                                 \
    if (flags & (O_CREAT | O_DIRECTORY) && flags & O_ACCMODE) name_changes(path); \
    return REAL(name)(path, flags, mode);                                         \
  }
OPEN(open)
OPEN(open64)
#define OPENAT(name)                                                              \
  int name(int folder, const char* path, int flags, ...) {                        \
    va_list rest;                                                                 \
    va_start(rest, flags);                                                        \
    const mode_t mode = va_arg(rest, mode_t);                                     \
    va_end(rest);                                                                 \
    if (flags & (O_CREAT | O_DIRECTORY) && flags & O_ACCMODE) name_changes(path); \
    return REAL(name)(folder, path, flags, mode);                                 \
  }
OPENAT(openat)
OPENAT(openat64)
#define FOPEN(name)                                \
  FILE* name(const char* path, const char* mode) { \
    if (strpbrk(mode, "wa")) name_changes(path);   \
    return REAL(name)(path, mode);                 \
  }
FOPEN(fopen)
FOPEN(fopen64)

int rename(const char* from, const char* to) {
  name_changes(to);
  return REAL(rename)(from, to);
}
int renameat(int a, const char* from, int b, const char* to) {
  name_changes(to);
  return REAL(renameat)(a, from, b, to);
}
int link(const char* from, const char* to) {
  name_changes(to);
  return REAL(link)(from, to);
}
int linkat(int a, const char* from, int b, const char* to, int flags) {
  name_changes(to);
  return REAL(linkat)(a, from, b, to, flags);
}
int symlink(const char* from, const char* to) {
  name_changes(to);
  return REAL(symlink)(from, to);
}
int symlinkat(const char* from, int folder, const char* to) {
  name_changes(to);
  return REAL(symlinkat)(from, folder, to);
}
int unlink(const char* path) {
  name_changes(path);
  return REAL(unlink)(path);
}
int unlinkat(int folder, const char* path, int flags) {
  name_changes(path);
  return REAL(unlinkat)(folder, path, flags);
}
int mkdir(const char* path, mode_t mode) {
  name_changes(path);
  return REAL(mkdir)(path, mode);
}
int rmdir(const char* path) {
  name_changes(path);
  return REAL(rmdir)(path);
}

// As on a disk, the last bytes that fit are written, and the next call fails.
ssize_t write(int fd, const void* bytes, size_t count) {
  const long fits = fitting(fd, (long)count);
  return fits < 0 ? -1 : REAL(write)(fd, bytes, (size_t)fits);
}
ssize_t pwrite(int fd, const void* bytes, size_t count, off_t at) {
  const long fits = fitting(fd, (long)count);
  return fits < 0 ? -1 : REAL(pwrite)(fd, bytes, (size_t)fits, at);
}
ssize_t pwrite64(int fd, const void* bytes, size_t count, off64_t at) {
  const long fits = fitting(fd, (long)count);
  return fits < 0 ? -1 : REAL(pwrite64)(fd, bytes, (size_t)fits, at);
}
ssize_t writev(int fd, const struct iovec* parts, int count) {
  long total = 0;
  for (int i = 0; i < count; ++i) total += (long)parts[i].iov_len;
  if (fitting(fd, total) == total) return REAL(writev)(fd, parts, count);
  errno = ENOSPC;
  return -1;
}
int posix_fallocate(int fd, off_t at, off_t count) {
  return fitting(fd, count) == count ? REAL(posix_fallocate)(fd, at, count) : ENOSPC;
}
