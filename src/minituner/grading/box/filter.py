"""The seccomp filter: an allowlist of system calls; every other call does not exist (ENOSYS).

The list is what a worker was seen to use (strace over the reference and every variant: newfstatat,
openat, read, write, brk, lseek, ioctl, close, mmap, exit_group) and what late imports, memory,
locks and the time of day may need besides. No fork, thread, exec or socket, no signal to anybody.
Source: linux/seccomp.h, linux/bpf_common.h, the tables in asm/unistd.h. Leaves out: other
architectures than these two; there the layer is absent, and the level says so.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

from minituner.grading.box.kernel import LIBC, PR_SET_SECCOMP, checked

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COLUMN = {"x86_64": 0, "aarch64": 1}
# name: (x86_64, aarch64); None where the architecture has only the newer form of the call
ALLOWED: dict[str, tuple[int, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "getpid": (39, 172),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "uname": (63, 160),
    "getcwd": (79, 17),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "sysinfo": (99, 179),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "getdents64": (217, 61),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "getrandom": (318, 278),
}
OPENAT, FCNTL, IOCTL, PRLIMIT = (257, 56), (72, 25), (16, 29), (302, 261)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FCNTL_SAFE = (0, 1, 2, 3, 1030)  # dupfd, getfd, setfd, getfl, dupfd_cloexec: no F_SETOWN
IOCTL_SAFE = (0x5401, 0x5451)  # TCGETS (isatty), FIOCLEX

LOAD, JUMP_EQ, JUMP_GE, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
NUMBER_AT, ARCH_AT, ARGUMENTS_AT = 0, 4, 16
SECCOMP_MODE_FILTER = 2


def _one(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, jump_true, jump_false, k)


def _only_if(number: int, argument: int, values: tuple[int, ...]) -> list[bytes]:
    """Allow a call whose argument (its low word) is one of values; EPERM otherwise."""
    tests = [_one(JUMP_EQ, value, len(values) - i, 0) for i, value in enumerate(values)]
    body = [_one(LOAD, ARGUMENTS_AT + 8 * argument), *tests]
    body += [_one(RETURN, ERRNO | errno.EPERM), _one(RETURN, ALLOW)]
    return [_one(JUMP_EQ, number, 0, len(body)), *body]


def program() -> list[bytes]:
    """The filter's instructions for this machine.

    Raises:
        OSError: there is no table for its architecture.
    """
    machine = platform.machine()
    if machine not in COLUMN:
        raise OSError(f"seccomp: expected one of {', '.join(COLUMN)}, got {machine}")
    column = COLUMN[machine]
    code = [_one(LOAD, ARCH_AT), _one(JUMP_EQ, AUDIT_ARCH[machine], 1, 0), _one(RETURN, KILL)]
    code += [_one(LOAD, NUMBER_AT), _one(JUMP_GE, 0x40000000, 0, 1), _one(RETURN, KILL)]
    for number in (numbers[column] for numbers in ALLOWED.values()):
        if number is not None:
            code += [_one(JUMP_EQ, number, 0, 1), _one(RETURN, ALLOW)]
    reading = [_one(LOAD, ARGUMENTS_AT + 16), _one(JUMP_SET, WRITING, 0, 1)]
    reading += [_one(RETURN, ERRNO | errno.EACCES), _one(RETURN, ALLOW)]
    code += [_one(JUMP_EQ, OPENAT[column], 0, len(reading)), *reading]
    code += _only_if(FCNTL[column], 1, FCNTL_SAFE)
    code += _only_if(IOCTL[column], 1, IOCTL_SAFE)
    # prlimit64 may read limits, not set them: its third argument, a pointer, must be null.
    null = [_one(LOAD, ARGUMENTS_AT + 16), _one(JUMP_EQ, 0, 0, 2)]
    null += [_one(LOAD, ARGUMENTS_AT + 20), _one(JUMP_EQ, 0, 1, 0)]
    null += [_one(RETURN, ERRNO | errno.EPERM), _one(RETURN, ALLOW)]
    code += [_one(JUMP_EQ, PRLIMIT[column], 0, len(null)), *null]
    return [*code, _one(RETURN, ERRNO | errno.ENOSYS)]


def install() -> None:
    """Apply the filter to this process, for good; needs no_new_privs."""
    code = program()
    text = ctypes.create_string_buffer(b"".join(code))
    # struct sock_fprog: a count and, aligned, a pointer
    header = struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(text))
    checked(LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0), "seccomp")
