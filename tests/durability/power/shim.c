/*
 * What a broker asks of the disk, written down, and made to fail on demand.
 *
 * Preloaded into the broker, this traps its system calls with a seccomp filter (`trap.c`) and
 * makes them itself. Wrappers of libc functions would not do: the storage engine renames its files
 * with system calls of its own, past libc. Whatever changes a file below the folder goes to the
 * log, in the order in which it took effect. What would change one in a way that is not known here
 * ends the process: nothing is missed in silence.
 *
 * SHIM_FOLDER   The folder; without it, nothing is done. Other files are left alone.
 * SHIM_LOG      The log. For its format see `struct record`, and `log.rs`.
 * SHIM_SYNC_US  So many microseconds each sync takes longer.
 * SHIM_SWALLOW  Syncs of files with this part in their path are said to be done, and are not.
 * SHIM_LATE     Syncs of files with this part in their path end when the next one does.
 * SHIM_FAULT    `KIND ERRNO FIRST COUNT PART`: of the calls of a kind (sync, write, short, read)
 *               on files with this part in their path, so many fail, from that one on. The first
 *               of the `short` ones writes half.
 * SHIM_TRIGGER  Calls are counted for SHIM_FAULT once this file is there.
 */

#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum kind { MAKE_FOLDER = 1, CREATE, WRITE, TRUNCATE, RENAME, UNLINK, SYNC_BEGIN, SYNC_END };

/* Followed by the names and the data. Files and folders are named by their inodes. */
struct record {
    uint32_t bytes; /* of all of it */
    uint32_t kind;
    uint64_t a, b;
    uint32_t name_bytes, other_name_bytes;
};

enum { PATH_BYTES = 4096, PARTS = 64 };

static struct {
    char folder[PATH_BYTES];
    size_t folder_bytes;
    int log;
    long sync_us;
    const char *swallow, *late;
    struct {
        char kind[16], part[64];
        int error, first, count;
        const char *trigger;
        atomic_int seen;
    } fault;
} shim = {.log = -1};

/* Held while a call takes effect and is written down: by a spin lock, since a signal handler must
   not wait for anything else. */
static atomic_flag busy = ATOMIC_FLAG_INIT;

static void lock(void)
{
    while (atomic_flag_test_and_set(&busy))
        sched_yield();
}

static void unlock(void)
{
    atomic_flag_clear(&busy);
}

static void say(const char *what, const char *path)
{
    struct iovec parts[] = {{"shim: ", 6},
                            {(void *)what, strlen(what)},
                            {": ", 2},
                            {(void *)path, strlen(path)},
                            {"\n", 1}};
    CALL(SYS_writev, 2, parts, 5);
}

void refuse(const char *what, const char *path)
{
    say(what, path);
    CALL(SYS_exit_group, 86);
}

static void record(enum kind kind, uint64_t a, uint64_t b, const char *name,
                   const char *other_name, const struct iovec *data, int count)
{
    if (shim.log < 0)
        return;
    struct record head = {sizeof head, kind, a, b, strlen(name), strlen(other_name)};
    struct iovec parts[PARTS + 3] = {{&head, sizeof head},
                                     {(void *)name, head.name_bytes},
                                     {(void *)other_name, head.other_name_bytes}};
    head.bytes += head.name_bytes + head.other_name_bytes;
    for (int part = 0; part < count; part++) {
        parts[part + 3] = data[part];
        head.bytes += data[part].iov_len;
    }
    if (CALL(SYS_writev, shim.log, parts, count + 3) != head.bytes)
        refuse("the log cannot be written", name);
}

/* An open file below the folder. */
struct file {
    char path[PATH_BYTES];
    uint64_t inode, bytes;
};

/* False where it is none, or lies elsewhere. */
static int find_file(int fd, struct file *file)
{
    char link[64];
    struct stat stat;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long bytes = CALL(SYS_readlink, link, file->path, sizeof file->path - 1);
    if (bytes < (long)shim.folder_bytes || memcmp(file->path, shim.folder, shim.folder_bytes) != 0)
        return 0;
    file->path[bytes] = 0;
    char next = file->path[shim.folder_bytes];
    if ((next != 0 && next != '/') || CALL(SYS_fstat, fd, &stat) < 0)
        return 0;
    file->inode = stat.st_ino;
    file->bytes = stat.st_size;
    return 1;
}

int is_concerned(int fd)
{
    struct file file;
    return find_file(fd, &file);
}

/* A name in a folder. */
struct place {
    struct file folder;
    char name[256];
};

static int find_place(int at, const char *path, struct place *place)
{
    char folder[PATH_BYTES];
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    if (begin >= sizeof folder || end - begin >= sizeof place->name)
        return 0;
    memcpy(place->name, path + begin, end - begin);
    place->name[end - begin] = 0;
    memcpy(folder, begin > 0 ? path : ".", begin > 0 ? begin : 1);
    folder[begin > 0 ? begin : 1] = 0;
    long fd = CALL(SYS_openat, at, folder, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    int found = find_file(fd, &place->folder);
    CALL(SYS_close, fd);
    return found;
}

/* The inode a path leads to, or 0. */
static uint64_t inode_at(int at, const char *path)
{
    struct stat stat;
    long result = CALL(SYS_newfstatat, at, path, &stat, AT_SYMLINK_NOFOLLOW);
    return result < 0 ? 0 : stat.st_ino;
}

/* The error that this call is to fail with, or 0. `turn`: its place among those that fail, from 0 on. */
static int fault(const char *kind, const char *path, int *turn)
{
    if (strcmp(kind, shim.fault.kind) != 0 || strstr(path, shim.fault.part) == NULL)
        return 0;
    if (shim.fault.trigger && CALL(SYS_access, shim.fault.trigger, F_OK) < 0)
        return 0;
    *turn = atomic_fetch_add(&shim.fault.seen, 1) + 1 - shim.fault.first;
    if (*turn < 0 || *turn >= shim.fault.count)
        return 0;
    say(kind, path);
    return shim.fault.error;
}

long sync_file(long number, int fd)
{
    struct file file;
    int turn;
    if (!find_file(fd, &file))
        return CALL(number, fd);
    int error = fault("sync", file.path, &turn);
    if (error != 0)
        return -error;
    if (shim.swallow && strstr(file.path, shim.swallow))
        return 0;
    uint64_t thread = CALL(SYS_gettid);
    lock();
    record(SYNC_BEGIN, file.inode, thread, "", "", NULL, 0);
    unlock();
    struct timespec pause = {shim.sync_us / 1000000, shim.sync_us % 1000000 * 1000};
    if (shim.sync_us > 0)
        CALL(SYS_nanosleep, &pause, NULL);
    long result = CALL(number, fd);
    static uint64_t late_inode, late_thread;
    lock();
    if (shim.late && strstr(file.path, shim.late)) {
        uint64_t inode = late_inode, before = late_thread;
        late_inode = file.inode, late_thread = thread;
        file.inode = inode, thread = before;
    }
    if (result == 0 && file.inode != 0)
        record(SYNC_END, file.inode, thread, "", "", NULL, 0);
    unlock();
    return result;
}

/* `offset` is -1 for a write where the file stands. */
long write_parts(int fd, const struct iovec *given, long count, int64_t offset)
{
    struct file file;
    struct iovec parts[PARTS];
    int turn = 0;
    if (!find_file(fd, &file))
        return offset < 0 ? CALL(SYS_writev, fd, given, count)
                          : CALL(SYS_pwritev, fd, given, count, offset, 0);
    if (count > PARTS)
        refuse("a write of too many parts", file.path);
    memcpy(parts, given, count * sizeof *parts);
    int error = fault("write", file.path, &turn);
    if (error != 0)
        return -error;
    error = fault("short", file.path, &turn);
    if (error != 0 && (turn > 0 || parts[0].iov_len < 2))
        return -error;
    if (error != 0) {
        count = 1;
        parts[0].iov_len /= 2;
    }
    int appends = CALL(SYS_fcntl, fd, F_GETFL) & O_APPEND;
    if (appends && offset >= 0)
        refuse("pwrite to a file that is appended to", file.path);
    lock();
    long written = offset < 0 ? CALL(SYS_writev, fd, parts, count)
                              : CALL(SYS_pwritev, fd, parts, count, offset, 0);
    if (written > 0) {
        size_t left = written;
        for (long part = 0; part < count; part++) {
            if (parts[part].iov_len > left)
                parts[part].iov_len = left;
            left -= parts[part].iov_len;
        }
        uint64_t from = offset < 0 ? CALL(SYS_lseek, fd, 0, SEEK_CUR) - written : offset;
        record(WRITE, file.inode, from, "", "", parts, count);
    }
    unlock();
    return written;
}

long open_file(int at, const char *path, long flags, long mode)
{
    struct place place;
    struct file file;
    if ((flags & O_TMPFILE) == O_TMPFILE)
        refuse("a file without a name", path);
    if ((flags & (O_CREAT | O_TRUNC)) == 0 || !find_place(at, path, &place))
        return CALL(SYS_openat, at, path, flags, mode);
    lock();
    uint64_t before = inode_at(at, path);
    long fd = CALL(SYS_openat, at, path, flags, mode);
    if (fd >= 0 && find_file(fd, &file)) {
        if (before == 0)
            record(CREATE, place.folder.inode, file.inode, place.name, "", NULL, 0);
        else if (flags & O_TRUNC)
            record(TRUNCATE, file.inode, 0, "", "", NULL, 0);
    }
    unlock();
    return fd;
}

long truncate_file(int fd, int64_t bytes)
{
    struct file file;
    if (!find_file(fd, &file))
        return CALL(SYS_ftruncate, fd, bytes);
    lock();
    long result = CALL(SYS_ftruncate, fd, bytes);
    if (result == 0)
        record(TRUNCATE, file.inode, bytes, "", "", NULL, 0);
    unlock();
    return result;
}

long make_folder(int at, const char *path, long mode)
{
    struct place place;
    if (!find_place(at, path, &place))
        return CALL(SYS_mkdirat, at, path, mode);
    lock();
    long result = CALL(SYS_mkdirat, at, path, mode);
    if (result == 0)
        record(MAKE_FOLDER, place.folder.inode, inode_at(at, path), place.name, "", NULL, 0);
    unlock();
    return result;
}

long unlink_file(int at, const char *path, long flags)
{
    struct place place;
    if (!find_place(at, path, &place))
        return CALL(SYS_unlinkat, at, path, flags);
    lock();
    long result = CALL(SYS_unlinkat, at, path, flags);
    if (result == 0)
        record(UNLINK, place.folder.inode, 0, place.name, "", NULL, 0);
    unlock();
    return result;
}

long rename_file(int from_at, const char *from, int to_at, const char *to, long flags)
{
    struct place source, target;
    int is_source = find_place(from_at, from, &source), is_target = find_place(to_at, to, &target);
    if (!is_source && !is_target)
        return CALL(SYS_renameat2, from_at, from, to_at, to, flags);
    if (is_source != is_target || (flags & ~RENAME_NOREPLACE) != 0)
        refuse("a rename into the folder, out of it, or of an unusual kind", from);
    lock();
    long result = CALL(SYS_renameat2, from_at, from, to_at, to, flags);
    if (result == 0)
        record(RENAME, source.folder.inode, target.folder.inode, source.name, target.name, NULL, 0);
    unlock();
    return result;
}

long read_file(long number, const greg_t *a)
{
    struct file file;
    int turn;
    int error = find_file(a[0], &file) ? fault("read", file.path, &turn) : 0;
    return error != 0 ? -error : CALL(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

long unknown(long number, int fd, const greg_t *a)
{
    struct file file;
    if (fd >= 0 && find_file(fd, &file))
        refuse("a system call that is not known", file.path);
    return CALL(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

long unknown_at(long number, int at, const char *path, const greg_t *a)
{
    struct place place;
    if (find_place(at, path, &place))
        refuse("a system call that is not known", path);
    return CALL(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

__attribute__((constructor)) static void begin(void)
{
    const char *folder = getenv("SHIM_FOLDER"), *log = getenv("SHIM_LOG");
    const char *sync_us = getenv("SHIM_SYNC_US"), *fault = getenv("SHIM_FAULT");
    if (folder == NULL)
        return;
    if (realpath(folder, shim.folder) == NULL)
        refuse("no such folder", folder);
    shim.folder_bytes = strlen(shim.folder);
    if (log && (shim.log = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0)
        refuse("the log cannot be made", log);
    shim.sync_us = sync_us ? atol(sync_us) : 0;
    shim.swallow = getenv("SHIM_SWALLOW");
    shim.late = getenv("SHIM_LATE");
    shim.fault.trigger = getenv("SHIM_TRIGGER");
    if (fault && sscanf(fault, "%15s %d %d %d %63s", shim.fault.kind, &shim.fault.error,
                        &shim.fault.first, &shim.fault.count, shim.fault.part) != 5)
        refuse("not understood", fault);
    trap_calls(strcmp(shim.fault.kind, "read") == 0);
}
