"""An adapter's files on disk: written whole or not at all, read within limits. Given for lab 04.

Leaves out: what is in the files; bridge.py knows that.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from minituner.settings import CONFIG, WEIGHTS, Files

Folder = str | os.PathLike[str]
MOST = 1 << 32  # bytes that a file may have


def write_folder(folder: Folder, files: Files) -> None:
    """Write the files into folder, which is made where there is none; other files in it stay.

    All is on disk under other names before the first old file goes. The old CONFIG goes first and
    the new one comes last: after a crash the folder is the old one, the new one, or incomplete,
    which read_folder refuses, and never half of each.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    ready: dict[str, str] = {}
    try:
        for name, content in files.items():
            handle, ready[name] = tempfile.mkstemp(prefix=f".{name}.", dir=place)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(ready[name], 0o644)  # mkstemp's 0600 would lock out whom it is shared with
        (place / CONFIG).unlink(missing_ok=True)
        for name in sorted(ready, key=lambda name: name == CONFIG):
            os.replace(ready.pop(name), place / name)
    finally:
        for left in ready.values():
            os.unlink(left)


def read_folder(folder: Folder) -> dict[str, bytes]:
    """CONFIG and WEIGHTS from folder.

    Raises:
        ValueError: one of the two is missing, is no regular file, or is too large.
    """
    found = {}
    for name in (CONFIG, WEIGHTS):
        path = Path(folder) / name
        if not path.is_file():
            raise ValueError(f"{path}: expected an adapter's file, got none; is it a PEFT folder?")
        if path.stat().st_size > MOST:
            raise ValueError(f"{path}: expected at most {MOST} bytes, got {path.stat().st_size}")
        found[name] = path.read_bytes()
    return found
