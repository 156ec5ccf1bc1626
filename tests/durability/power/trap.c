/*
 * System calls are trapped with a seccomp filter, wherever they are made, and handed to `shim.c`.
 */

#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef __x86_64__
#error "written for x86-64 only"
#endif

/* The one place from which system calls are not trapped. They return -errno. */
extern const char shim_call_end[];
__asm__(".text\n.globl shim_call, shim_call_end\n.hidden shim_call, shim_call_end\n"
        "shim_call:\n"
        "mov %rdi, %rax\n mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n"
        "mov %r8, %r10\n mov %r9, %r8\n mov 8(%rsp), %r9\n syscall\n"
        "shim_call_end:\n ret\n");

static long make_call(long number, const greg_t *a)
{
    struct iovec one = {(void *)a[1], a[2]};
    switch (number) {
    case SYS_open: return open_file(AT_FDCWD, (char *)a[0], a[1], a[2]);
    case SYS_openat: return open_file(a[0], (char *)a[1], a[2], a[3]);
    case SYS_creat: return open_file(AT_FDCWD, (char *)a[0], O_CREAT | O_WRONLY | O_TRUNC, a[1]);
    case SYS_write: return write_parts(a[0], &one, 1, -1);
    case SYS_pwrite64: return write_parts(a[0], &one, 1, a[3]);
    case SYS_writev: return write_parts(a[0], (struct iovec *)a[1], a[2], -1);
    case SYS_pwritev: return write_parts(a[0], (struct iovec *)a[1], a[2], a[3]);
    case SYS_fsync:
    case SYS_fdatasync: return sync_file(number, a[0]);
    case SYS_ftruncate: return truncate_file(a[0], a[1]);
    case SYS_mkdir: return make_folder(AT_FDCWD, (char *)a[0], a[1]);
    case SYS_mkdirat: return make_folder(a[0], (char *)a[1], a[2]);
    case SYS_unlink: return unlink_file(AT_FDCWD, (char *)a[0], 0);
    case SYS_rmdir: return unlink_file(AT_FDCWD, (char *)a[0], AT_REMOVEDIR);
    case SYS_unlinkat: return unlink_file(a[0], (char *)a[1], a[2]);
    case SYS_rename: return rename_file(AT_FDCWD, (char *)a[0], AT_FDCWD, (char *)a[1], 0);
    case SYS_renameat: return rename_file(a[0], (char *)a[1], a[2], (char *)a[3], 0);
    case SYS_renameat2: return rename_file(a[0], (char *)a[1], a[2], (char *)a[3], a[4]);
    case SYS_read:
    case SYS_pread64:
    case SYS_readv:
    case SYS_preadv: return read_file(number, a);
    /* Whoever copies with one of these does without where it is not there. */
    case SYS_copy_file_range: return is_concerned(a[2]) ? -ENOSYS : unknown(number, -1, a);
    case SYS_sendfile: return is_concerned(a[0]) ? -ENOSYS : unknown(number, -1, a);
    case SYS_openat2:
    case SYS_io_uring_setup: return -ENOSYS;
    case SYS_splice: return unknown(number, a[2], a);
    case SYS_mmap: return unknown(number, a[4], a);
    case SYS_fallocate:
    case SYS_pwritev2: return unknown(number, a[0], a);
    case SYS_truncate:
    case SYS_mknod: return unknown_at(number, AT_FDCWD, (char *)a[0], a);
    case SYS_link:
    case SYS_symlink: return unknown_at(number, AT_FDCWD, (char *)a[1], a);
    case SYS_mknodat: return unknown_at(number, a[0], (char *)a[1], a);
    case SYS_linkat: return unknown_at(number, a[2], (char *)a[3], a);
    case SYS_symlinkat: return unknown_at(number, a[1], (char *)a[2], a);
    default: refuse("a system call that was trapped and is not known", ""); return -ENOSYS;
    }
}

/* The reads, at the end, are trapped only where one of them is to fail. */
enum { READS = 4 };
static const int TRAPPED[] = {
    SYS_open, SYS_openat, SYS_creat, SYS_write, SYS_pwrite64, SYS_writev, SYS_pwritev, SYS_fsync,
    SYS_fdatasync, SYS_ftruncate, SYS_mkdir, SYS_mkdirat, SYS_unlink, SYS_rmdir, SYS_unlinkat,
    SYS_rename, SYS_renameat, SYS_renameat2, SYS_copy_file_range, SYS_sendfile, SYS_openat2,
    SYS_io_uring_setup, SYS_splice, SYS_fallocate, SYS_pwritev2, SYS_truncate, SYS_mknod,
    SYS_link, SYS_symlink, SYS_mknodat, SYS_linkat, SYS_symlinkat,
    SYS_read, SYS_pread64, SYS_readv, SYS_preadv,
};

static void handle_trap(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    greg_t arguments[] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]};
    r[REG_RAX] = make_call(info->si_syscall, arguments);
}

void trap_calls(int reads)
{
    enum { CALLS = sizeof TRAPPED / sizeof *TRAPPED, LENGTH = 2 * CALLS + 24 };
    struct sock_filter code[LENGTH];
    const uint64_t end = (uint64_t)shim_call_end;
    const size_t ip = offsetof(struct seccomp_data, instruction_pointer);
    const size_t arguments = offsetof(struct seccomp_data, args);
    int at = 0;
#define LOAD(where) code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, where)
#define RETURN(what) code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, what)
#define JUMP(test, value, yes, no) \
    code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | (test) | BPF_K, value, yes, no)
    /* What comes from here is let pass. */
    LOAD(ip);
    JUMP(BPF_JEQ, (uint32_t)end, 0, 3);
    LOAD(ip + 4);
    JUMP(BPF_JEQ, (uint32_t)(end >> 32), 0, 1);
    RETURN(SECCOMP_RET_ALLOW);
    LOAD(offsetof(struct seccomp_data, nr));
    int calls = reads ? CALLS : CALLS - READS;
    for (int call = 0; call < calls; call++) {
        JUMP(BPF_JEQ, TRAPPED[call], 0, 1);
        RETURN(SECCOMP_RET_TRAP);
    }
    /* A mapping through which a file can be changed. */
    JUMP(BPF_JEQ, SYS_mmap, 0, 5);
    LOAD(arguments + 2 * sizeof(uint64_t));
    JUMP(BPF_JSET, PROT_WRITE, 0, 3);
    LOAD(arguments + 3 * sizeof(uint64_t));
    JUMP(BPF_JSET, MAP_SHARED, 0, 1);
    RETURN(SECCOMP_RET_TRAP);
    RETURN(SECCOMP_RET_ALLOW);
    struct sock_fprog program = {at, code};
    struct sigaction action = {.sa_sigaction = handle_trap, .sa_flags = SA_SIGINFO};
    sigfillset(&action.sa_mask);
    if (sigaction(SIGSYS, &action, NULL) != 0
        || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        refuse("system calls cannot be trapped", strerror(errno));
}
