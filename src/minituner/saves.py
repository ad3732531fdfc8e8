"""Says when one of a few files was saved with other bytes than before.

watchfiles waits for the system's word, so a save is known in milliseconds however an editor writes
it. Where the system gives none (WSL, network mounts, shared folders) it looks several times a
second, and that is announced. Leaves out: what a save means.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from watchfiles import watch

SETTLE_MS = 10  # a save in two steps is two saves; the second ends the round of the first
POLL_MS = 200
# Mounts that tell this machine nothing of what another one, or its host, has written.
DISTANT = ("nfs", "cifs", "smb", "9p", "drvfs", "fuse", "vboxsf", "prl_fs", "afs", "virtiofs")


def digest(files: Sequence[Path]) -> str:
    """Of what is in the files now; a missing one counts as such."""
    whole = hashlib.sha256()
    for path in files:
        try:
            data = path.read_bytes()
        except OSError:
            data = b"\0missing"
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()


def must_poll(folder: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether the system gives no word of saves in this folder."""
    if sys.platform != "linux":
        return False
    if "microsoft" in platform.release().lower():
        return True
    try:
        rows = [line.split() for line in mounts.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return False
    above = [row for row in rows if folder.is_relative_to(row[1].replace("\\040", " "))]
    kind = max(above, key=lambda row: len(row[1]))[2] if above else ""
    return kind.startswith(DISTANT)


class Saves:
    """A thread that calls `saved` after each change; a context manager that leaves none behind."""

    def __init__(self, files: Sequence[Path], saved: Callable[[], None], poll: bool) -> None:
        self.files, self.saved, self.poll = files, saved, poll
        self.known = digest(files)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Saves:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.thread.join(timeout=2)

    def _run(self) -> None:
        # The folders, not the files: many editors put a new file in the old one's place.
        folders = {path.parent for path in self.files if path.parent.is_dir()}
        for _ in watch(
            *folders,
            watch_filter=None,
            recursive=False,
            debounce=SETTLE_MS,
            step=SETTLE_MS // 2,
            stop_event=self.stopping,
            rust_timeout=1000,
            yield_on_timeout=True,  # a change between two waits is seen a second later
            force_polling=self.poll,
            poll_delay_ms=POLL_MS,
            raise_interrupt=False,
        ):
            now = digest(self.files)
            if now != self.known:
                self.known = now
                self.saved()
