// Faults for `chaos.py`, preloaded before libc (LD_PRELOAD): the process is killed at the n-th call
// that creates, renames or removes a name, or finds the disk full after so many bytes. It sees the
// calls of Python, of the extension and of every library. Children read the same orders from the
// environment.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long num_calls, num_bytes;
static long kill_at = -1, space = -1;

// Begins to count. -1 means no such fault.
void faults_arm(long at, long bytes) {
  kill_at = at;
  space = bytes;
  num_calls = num_bytes = 0;
}
long faults_calls(void) { return num_calls; }
long faults_bytes(void) { return num_bytes; }

__attribute__((constructor)) static void arm_child(void) {
  const char* at = getenv("FAULTS_KILL_AT");
  const char* bytes = getenv("FAULTS_SPACE");
  faults_arm(at ? atol(at) : -1, bytes ? atol(bytes) : -1);
}

// Called before each call that changes names.
static void name_changes(const char* path) {
  if (strncmp(path, "/dev/", 5) == 0 || strncmp(path, "/proc/", 6) == 0) return;
  if (atomic_fetch_add(&num_calls, 1) + 1 == kill_at) kill(getpid(), SIGKILL);
}

// Whether so many more bytes of a file fit on the disk.
static int fits(int fd, long bytes) {
  struct stat about;
  if (fd <= STDERR_FILENO) return 1;  // what a verb says goes to a file in a trial
  if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) return 1;
  const long total = atomic_fetch_add(&num_bytes, bytes) + bytes;
  if (space < 0 || total <= space) return 1;
  errno = ENOSPC;
  return 0;
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

ssize_t write(int fd, const void* bytes, size_t count) {
  return fits(fd, (long)count) ? REAL(write)(fd, bytes, count) : -1;
}
ssize_t pwrite(int fd, const void* bytes, size_t count, off_t at) {
  return fits(fd, (long)count) ? REAL(pwrite)(fd, bytes, count, at) : -1;
}
ssize_t pwrite64(int fd, const void* bytes, size_t count, off64_t at) {
  return fits(fd, (long)count) ? REAL(pwrite64)(fd, bytes, count, at) : -1;
}
ssize_t writev(int fd, const struct iovec* parts, int count) {
  long total = 0;
  for (int i = 0; i < count; ++i) total += (long)parts[i].iov_len;
  return fits(fd, total) ? REAL(writev)(fd, parts, count) : -1;
}
int posix_fallocate(int fd, off_t at, off_t count) {
  return fits(fd, count) ? REAL(posix_fallocate)(fd, at, count) : ENOSPC;
}
