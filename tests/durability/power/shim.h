/*
 * What `trap.c`, which makes system calls go through here, and `shim.c`, which knows what they are
 * about, have of each other.
 */

#define _GNU_SOURCE
#include <stdint.h>
#include <sys/uio.h>
#include <ucontext.h>

/* The one way to the system that is not trapped. Returns -errno. */
long shim_call(long number, long a, long b, long c, long d, long e, long f);
#define CALL(...) CALL_WITH(__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define CALL_WITH(n, a, b, c, d, e, f, ...) \
    shim_call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

/* Has system calls trapped that change files; `reads`: and those that read them. */
void trap_calls(int reads);

/* Ends the process. */
void refuse(const char *what, const char *path);
/* True for an open file below the folder. */
int is_concerned(int fd);

/* The calls, with their arguments in the order of the system's. */
long open_file(int at, const char *path, long flags, long mode);
long write_parts(int fd, const struct iovec *given, long count, int64_t offset);
long sync_file(long number, int fd);
long truncate_file(int fd, int64_t bytes);
long make_folder(int at, const char *path, long mode);
long unlink_file(int at, const char *path, long flags);
long rename_file(int from_at, const char *from, int to_at, const char *to, long flags);
long read_file(long number, const greg_t *a);
/* A call with which the file, or the place, can be changed, and that nobody makes. */
long unknown(long number, int fd, const greg_t *a);
long unknown_at(long number, int at, const char *path, const greg_t *a);
