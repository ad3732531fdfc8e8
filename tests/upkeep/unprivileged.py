"""Runs a command as a user without any privilege, where the tests themselves run as root.

Such a user has to be able to read Python and the repository. Where a folder on the way is closed
to it (a home of root's, say), the command gets a mount namespace in which that folder holds nothing
but the way. Leaves out: machines without setpriv and unshare; there callers skip, and say so.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

NOBODY = 65534
AVAILABLE = os.geteuid() == 0 and all(shutil.which(tool) for tool in ("setpriv", "unshare"))


def closed(path: Path) -> Path | None:
    """The first folder on the way that others may not enter."""
    for folder in reversed([path, *path.parents]):
        if not stat.S_IMODE(folder.stat().st_mode) & stat.S_IXOTH:
            return folder
    return None


def opened(paths: Iterable[Path]) -> list[str]:
    """Shell lines that make each path reachable, in a mount namespace of one's own."""
    lines: list[str] = []
    shut = {path: closed(path) for path in paths}
    for door in sorted({door for door in shut.values() if door is not None}):
        inside = [path for path, its in shut.items() if its == door]
        for number, path in enumerate(inside):
            hold = f"/mnt/{number}"
            lines += (
                [f"mount -t tmpfs tmpfs /mnt && mkdir {hold}"] if number == 0 else [f"mkdir {hold}"]
            )
            lines.append(f"mount --rbind {shlex.quote(str(path))} {hold}")
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(door))}")
        for number, path in enumerate(inside):
            lines.append(f"mkdir -p {shlex.quote(str(path))}")
            lines.append(f"mount --move /mnt/{number} {shlex.quote(str(path))}")
    return lines


def command(words: list[str], reach: Iterable[Path]) -> list[str]:
    """The command as nobody; `reach` are the trees it needs besides Python's."""
    base = Path(sys.base_prefix).resolve()
    lines = ["set -e", "mount --make-rprivate /", *opened([base, *reach])]
    user = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --inh-caps=-all"
    lines.append(f"exec {user} --bounding-set=-all {shlex.join(words)}")
    return ["unshare", "--mount", "sh", "-c", "\n".join(lines)]
