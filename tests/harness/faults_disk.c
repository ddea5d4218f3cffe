/* A disk that fails: loaded into a process ahead of the C library (LD_PRELOAD), it answers for some of its calls.
 *
 * FAULT_FSYNC: as long as there is a file of this name, fsync and fdatasync fail with an input/output error.
 * FAULT_FILE, FAULT_WRITES: the nth write to this file is cut in half, and the process killed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int is_failing(void) {
    const char *flag = getenv("FAULT_FSYNC");
    return flag != NULL && access(flag, F_OK) == 0;
}

#define SYNC(name)                                                       \
    int name(int fd) {                                                   \
        static int (*real)(int);                                         \
        if (real == NULL) real = (int (*)(int))dlsym(RTLD_NEXT, #name);  \
        if (is_failing()) {                                              \
            errno = EIO;                                                 \
            return -1;                                                   \
        }                                                                \
        return real(fd);                                                 \
    }

SYNC(fsync)
SYNC(fdatasync)

static int is_last_write(int fd) {
    static long left = -1;
    const char *name = getenv("FAULT_FILE"), *writes = getenv("FAULT_WRITES");
    struct stat wanted, found;
    if (name == NULL || writes == NULL || stat(name, &wanted) != 0 || fstat(fd, &found) != 0) return 0;
    if (wanted.st_ino != found.st_ino || wanted.st_dev != found.st_dev) return 0;
    if (left < 0) left = atol(writes);
    return --left == 0;
}

#define WRITE(name, offset_type)                                                          \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) {             \
        static ssize_t (*real)(int, const void *, size_t, offset_type);                   \
        if (real == NULL)                                                                 \
            real = (ssize_t(*)(int, const void *, size_t, offset_type))dlsym(RTLD_NEXT, #name); \
        if (is_last_write(fd)) {                                                          \
            real(fd, data, size / 2, offset);                                             \
            kill(getpid(), SIGKILL);                                                      \
        }                                                                                 \
        return real(fd, data, size, offset);                                              \
    }

WRITE(pwrite, off_t)
WRITE(pwrite64, off64_t)
