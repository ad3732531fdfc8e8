"""What is read of a submission: the text of regular files; nothing is run.

A submission is somebody else's folder: no link is followed, no pipe is waited for, and where two
files claim one place none is guessed. Each refusal is one line and concerns that file only.
Leaves out: what the source may say (gates.py) and how a hostile text is survived (desk.py).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minituner.grading.registry import Lab
from minituner.grading.tools import Source, parse
from minituner.words import say

MAX_BYTES = 64 * 1024
# Windows has none of these; there only intake() below is used.
SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
FILE = os.O_RDONLY | SAFE
FOLDER = FILE | getattr(os, "O_DIRECTORY", 0)


class NoSubmission(Exception):
    """There is nothing where the submission should be: the caller's mistake."""


class _Refused(Exception):
    """One file is refused; the text is the line."""


@dataclass(frozen=True)
class Refusal:
    """Why one file is not read, in one line."""

    line: str


@dataclass(frozen=True)
class Gathered:
    """What one submission holds for one lab."""

    star: str | Refusal
    notes: str | Refusal | None  # None: there are none
    label: str  # the ★ file's path within the submission, safe to print


def gather(lab: Lab, submission: Path) -> Gathered:
    """The ★ file and the notes of a folder, or of one file, which is then the ★ file.

    Raises:
        NoSubmission: nothing is there.
    """
    name = shown(submission.name or str(submission))
    try:
        kind = os.lstat(submission).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise NoSubmission(say("{path}: no such file or folder", path=name)) from None
    except OSError as error:
        return Gathered(Refusal(_unreadable(name, error)), None, name)
    if not stat.S_ISDIR(kind):
        try:
            where = os.open(submission.parent, os.O_RDONLY)
        except OSError as error:
            return Gathered(Refusal(_unreadable(name, error)), None, name)
        with _closed(where):
            text = _text(where, submission.name, name)
        missing = Refusal(say("{path}: vanished while it was read; hand it in again", path=name))
        return Gathered(missing if text is None else text, None, name)
    try:
        root = os.open(submission, FOLDER)
    except OSError as error:
        return Gathered(Refusal(_unreadable(name, error)), None, name)
    with _closed(root):
        star, label = _either(root, lab.file, lab.star)
        notes, _ = _either(root, lab.notes, lab.notes_flat)
    if star is None:
        said = say(
            "expected {file} or {flat} in {where}, found neither",
            file=lab.file,
            flat=lab.star,
            where=name,
        )
        star, label = Refusal(said), lab.star
    return Gathered(star, notes, label)


def _either(root: int, path: str, flat: str) -> tuple[str | Refusal | None, str]:
    """The text at the repository's path, else at the flat name; two different ones are refused."""
    found = {name: _text(root, name, name) for name in (path, flat)}
    there = {name: text for name, text in found.items() if text is not None}
    if len(there) == 2 and there[path] != there[flat]:
        odd = next((text for text in there.values() if isinstance(text, Refusal)), None)
        said = say(
            "expected one file, got {file} and {flat}, which differ; hand in one of them",
            file=path,
            flat=flat,
        )
        return odd or Refusal(said), path
    name = next(iter(there), flat)
    return there.get(name), name


def _text(root: int, path: str, name: str) -> str | Refusal | None:
    """The text of one file below root; None if it is not there. `name` stands in the refusal."""
    try:
        raw = _bytes(root, path, name)
    except _Refused as refused:
        return Refusal(str(refused))
    except FileNotFoundError:
        return None
    except OSError as error:
        return Refusal(_unreadable(name, error))
    if b"\0" in raw:
        at = raw.index(b"\0")
        return Refusal(say("{path}: expected text, got a NUL byte at {at}", path=name, at=at))
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        said = say("{path}: expected UTF-8, got a bad byte at {at}", path=name, at=error.start)
        return Refusal(said)


def _bytes(root: int, path: str, name: str) -> bytes:
    """Walk down by descriptors, a component at a time, so that none is exchanged for a link."""
    *folders, last = Path(path).parts
    here = os.dup(root)
    try:
        for folder in folders:
            kind = os.stat(folder, dir_fd=here, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(kind) and not stat.S_ISLNK(kind):
                raise FileNotFoundError(errno.ENOENT, folder)  # `src` is a file: no repository
            _expect(stat.S_ISDIR(kind), name, kind)
            below = os.open(folder, FOLDER, dir_fd=here)
            os.close(here)
            here = below
        # Looked at before it is opened: opening a device can already do something.
        kind = os.stat(last, dir_fd=here, follow_symlinks=False).st_mode
        _expect(stat.S_ISREG(kind), name, kind)
        try:
            file = os.open(last, FILE, dir_fd=here)
        except FileNotFoundError:
            said = say("{path}: vanished while it was read; hand it in again", path=name)
            raise _Refused(said) from None
        with _closed(file):
            return _whole(file, name)
    finally:
        os.close(here)


def _whole(file: int, name: str) -> bytes:
    before = os.fstat(file)
    _expect(stat.S_ISREG(before.st_mode), name, before.st_mode)
    raw = b""
    while len(raw) <= MAX_BYTES and (part := os.read(file, MAX_BYTES + 1 - len(raw))):
        raw += part
    size = max(len(raw), before.st_size)
    if size > MAX_BYTES:
        said = say(
            "{path}: expected at most {most} bytes, got {got}", path=name, most=MAX_BYTES, got=size
        )
        raise _Refused(said)
    after = os.fstat(file)
    same = (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    if not same or not before.st_size == len(raw) == after.st_size:
        raise _Refused(say("{path}: changed while it was read; hand it in again", path=name))
    return raw


def _expect(right: bool, name: str, kind: int) -> None:
    if right:
        return
    kinds = {
        stat.S_IFLNK: say("a symbolic link"),
        stat.S_IFDIR: say("a folder"),
        stat.S_IFIFO: say("a pipe"),
        stat.S_IFSOCK: say("a socket"),
    }
    got = kinds.get(stat.S_IFMT(kind), say("a device"))
    raise _Refused(say("{path}: expected a regular file, got {got}", path=name, got=got))


def _unreadable(name: str, error: OSError) -> str:
    return say("{path}: cannot be read ({why})", path=name, why=error.strerror)


@contextmanager
def _closed(file: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(file)


def shown(name: str) -> str:
    """A file name on one line: controls, bidirectional marks and bad bytes as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def intake(path: Path) -> Source | str:
    """A file of the reader's own, links and all, for practice; or one line saying why not."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        return say("{path}: cannot be read ({why})", path=path, why=error.strerror)
    if len(raw) > MAX_BYTES:
        return say(
            "{path}: expected at most {most} bytes, got {got}",
            path=path,
            most=MAX_BYTES,
            got=len(raw),
        )
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        return say("{path}: expected UTF-8, got a bad byte at {at}", path=path, at=error.start)
    return parse(text, path.name)
