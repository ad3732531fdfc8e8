"""The walls around a worker, layer by layer, and which of them stand.

A layer is one thing the kernel is asked for. The zygote puts up the ones that all its workers share
(a mount namespace that holds Python and torch and nothing else); each worker puts up its own before
it sees a line of a submission, and names in its first frame those that stand. Nothing here needs
root; root adds a user of its own for each worker.
Leaves out: control groups (RLIMIT_AS and the filter bound memory and processes), and any decision
whether the level reached is enough; that is the judge's.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import stat
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from minituner.grading.box import filter as seccomp
from minituner.grading.box import kernel

JAIL = "/tmp"  # where the zygote's own root is built; in its mount namespace alone
SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
FIRST_USER, USERS = 1_000_000, 1 << 20  # numbers that nobody has: one for each running worker
KEPT_MOUNT_FLAGS = 0x2 | 0x4 | 0x8 | 0x400 | 0x800  # nosuid nodev noexec noatime nodiratime


@dataclass(frozen=True)
class Limits:
    """What one worker may use of the machine."""

    cpu_seconds: float  # by its keeper's clock; the kernel's own limit is the next whole second
    memory_bytes: int  # on top of what a fresh worker has mapped
    open_files: int = 64


def _places() -> list[str]:
    """Where modules and libraries are looked for, as the paths are written."""
    found = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [str(Path(torch.__file__).parents[1]), sysconfig.get_config_var("LIBDIR"), *SYSTEM]
    return [path for path in found if path and os.path.exists(path)]


def readable() -> list[str]:
    """Every tree a module may be read from: Python's, torch's, the system's libraries."""
    return sorted({os.path.realpath(path) for path in _places()})


def build_jail(trees: list[str]) -> None:
    """Make a root that holds `trees`, read-only, and nothing else; then enter it for good.

    Raises:
        OSError: the kernel refuses; the process may then be half-way in and should end.
    """
    # Looked at now: a path below JAIL, a link's too, is out of sight once that is covered.
    links = {path: real for path in _places() if (real := os.path.realpath(path)) != path}
    kernel.unshare("mount")
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    # Held open, since a tree may lie below the folder that is covered next.
    sources = {tree: os.open(tree, os.O_PATH) for tree in _outermost(trees)}
    kernel.mount("tmpfs", JAIL, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for tree, source in sources.items():
        inside = Path(JAIL + tree)
        inside.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISDIR(os.fstat(source).st_mode):
            inside.mkdir(exist_ok=True)
        else:
            inside.touch()
        kernel.mount(f"/proc/self/fd/{source}", str(inside), "", kernel.MS_BIND | kernel.MS_REC)
        # In a user namespace a flag that is set on the source may not be lost.
        kept = os.fstatvfs(source).f_flag & KEPT_MOUNT_FLAGS
        again = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kept
        kernel.mount("none", str(inside), "", again)
        os.close(source)
    for path in _outermost(list(links)):
        if not os.path.lexists(JAIL + path):
            Path(JAIL + path).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(links[path], JAIL + path)
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY
    kernel.mount("none", JAIL, "", flags | kernel.MS_NOSUID | kernel.MS_NODEV)
    kernel.pivot_root(JAIL)


def _outermost(trees: list[str]) -> list[str]:
    return [t for t in trees if not any(t.startswith(other + "/") for other in trees)]


def limit(limits: Limits, mapped: int) -> None:
    """CPU, memory, files, processes: hard limits that nothing in the worker can raise."""
    wanted = {
        resource.RLIMIT_CPU: math.ceil(limits.cpu_seconds),
        resource.RLIMIT_AS: mapped + limits.memory_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    for kind, most in wanted.items():
        resource.setrlimit(kind, (most, most))


def become_nobody_else(slot: int) -> None:
    """As root: a user and group that nothing else on the machine belongs to."""
    os.setgroups([])
    os.setresgid(slot, slot, slot)
    os.setresuid(slot, slot, slot)


def mapped_bytes() -> int:
    """This process's virtual memory."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def enclose(
    wanted: list[str], standing: list[str], trees: list[str], lock: Callable[[], None], proc: int
) -> None:
    """The worker's own layers, in the order in which each can still be put up.

    Args:
        wanted: the layers to put up; a name that is not here belongs to the zygote or the keeper.
        standing: gets the name of each layer when it stands.
        lock: sets the resource limits.
        proc: a descriptor of /proc; closed here.
    """
    if "user" in wanted and "user" not in standing:
        kernel.enter_user_namespace(proc)
        standing.append("user")
    os.close(proc)
    # The keeper's end is the worker's; a change of user would undo this, so it comes after.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    steps: dict[str, Callable[[], None]] = {
        "rlimits": lock,
        "no_new_privs": lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1),
        "landlock": lambda: kernel.landlock(trees),
        "seccomp": seccomp.install,  # last: it ends the calls that the others need
    }
    for name, put_up in steps.items():
        if name == "seccomp":
            kernel.drop_capabilities()  # whatever a user namespace or root gave
        if name in wanted:
            put_up()
            standing.append(name)
