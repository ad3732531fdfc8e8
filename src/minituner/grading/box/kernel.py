"""The Linux system calls that Python does not wrap, by ctypes: prctl, unshare, mount, Landlock.

Source: man 2 of each call; linux/landlock.h, linux/capability.h. Leaves out: any policy
(sandbox.py), and the seccomp filter (filter.py).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

LIBC = ctypes.CDLL(None, use_errno=True)

CLONE = {
    "mount": 0x00020000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND = 0x1, 0x2, 0x4, 0x20, 0x1000
MS_REC, MS_PRIVATE, MNT_DETACH = 0x4000, 0x40000, 2
CAPABILITIES_V3 = 0x20080522
# capset, pivot_root and the three of Landlock have no wrapper in the C library
NUMBERS = {
    "x86_64": {"capset": 126, "pivot_root": 155},
    "aarch64": {"capset": 91, "pivot_root": 41},
}
LANDLOCK = {"create": 444, "add": 445, "restrict": 446}  # the same on every architecture
READ_FILE, READ_DIR, EXECUTE = 1 << 2, 1 << 3, 1 << 0
TCP_RIGHTS, ALL_SCOPES = 0b11, 0b11


def checked(result: int, what: str) -> int:
    """The result of a call, or OSError with the call's name."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, value: int) -> None:
    checked(LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def unshare(*names: str) -> None:
    """Leave the namespaces of these kinds for fresh ones."""
    checked(LIBC.unshare(sum(CLONE[name] for name in names)), f"unshare {'+'.join(names)}")


def enter_user_namespace(proc: int) -> None:
    """A user namespace in which this process keeps its own number, and no other exists.

    Args:
        proc: a descriptor of /proc, since there is none in the jail.
    """
    uid, gid = os.geteuid(), os.getegid()
    prctl(PR_SET_DUMPABLE, 1)  # or /proc/self would belong to root after a change of user
    unshare("user")
    maps = {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}
    for name, line in maps.items():
        file = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
        try:
            os.write(file, line.encode("ascii"))
        finally:
            os.close(file)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    args = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    checked(LIBC.mount(*args), f"mount {target}")


def pivot_root(new: str) -> None:
    """Make `new` the root; what was the root is gone from sight."""
    os.chdir(new)
    number = NUMBERS[platform.machine()]["pivot_root"]
    checked(LIBC.syscall(number, b".", b"."), "pivot_root")
    checked(LIBC.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability for good (with no_new_privs, none can come back)."""
    header = struct.pack("<Ii", CAPABILITIES_V3, 0)
    number = NUMBERS[platform.machine()]["capset"]
    checked(LIBC.syscall(number, header, bytes(24)), "capset")


def landlock_abi() -> int:
    """The kernel's version of Landlock; 0 where it has none."""
    return max(0, int(LIBC.syscall(LANDLOCK["create"], None, ctypes.c_size_t(0), 1)))


def landlock(readable: list[str]) -> None:
    """From now on: read these trees and nothing else, write nowhere, no TCP, no signal outside."""
    abi = landlock_abi()
    if abi < 1:
        raise OSError("landlock: this kernel has none, or has it switched off")
    rights = (1 << 13) - 1  # ABI 1
    rights |= (1 << 13 if abi >= 2 else 0) | (1 << 14 if abi >= 3 else 0)
    rights |= 1 << 15 if abi >= 5 else 0
    attributes = struct.pack(
        "<QQQ", rights, TCP_RIGHTS if abi >= 4 else 0, ALL_SCOPES if abi >= 6 else 0
    )
    ruleset = checked(
        LIBC.syscall(LANDLOCK["create"], attributes, ctypes.c_size_t(len(attributes)), 0),
        "landlock_create_ruleset",
    )
    for path in readable:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = READ_FILE | EXECUTE | (READ_DIR if os.path.isdir(path) else 0)
        rule = struct.pack("<Qi", allowed, folder)
        checked(LIBC.syscall(LANDLOCK["add"], ruleset, 1, rule, 0), f"landlock_add_rule {path}")
        os.close(folder)
    checked(LIBC.syscall(LANDLOCK["restrict"], ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)
