"""Intake: what is read of a submission, and the one line that says why something is not."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minituner.grading.intake import MAX_BYTES, Gathered, NoSubmission, Refusal, gather
from minituner.grading.registry import lab

LAB = lab("00")
TEXT = "x = 1\n"


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINITUNER_LANG", "en")


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    """Whatever is refused, what was opened for it is closed."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


def put(root: Path, name: str, text: str = TEXT) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def in_time(submission: Path) -> Gathered:
    """gather(), which must not wait for anybody."""
    found: list[Gathered] = []
    reader = threading.Thread(target=lambda: found.append(gather(LAB, submission)), daemon=True)
    reader.start()
    reader.join(10)
    assert found, f"gather({submission.name}) did not return within 10 s"
    return found[0]


def refused(part: str | Refusal | None, *said: str) -> None:
    assert isinstance(part, Refusal), part
    assert "\n" not in part.line
    for words in said:
        assert words in part.line


@pytest.mark.parametrize(
    ("star", "notes"),
    [(LAB.file, LAB.notes), (LAB.star, LAB.notes_flat), (LAB.file, LAB.notes_flat)],
)
def test_either_place_is_read(tmp_path: Path, star: str, notes: str) -> None:
    """The repository's path and the flat name alike; the label says which it was."""
    put(tmp_path, star)
    put(tmp_path, notes, "| a | b | c |\n")
    assert gather(LAB, tmp_path) == Gathered(TEXT, "| a | b | c |\n", star)


def test_one_file_is_the_star_file(tmp_path: Path) -> None:
    """Under any name; its neighbours are not looked at."""
    path = put(tmp_path, "3141_ana_lora.py")
    put(tmp_path, LAB.notes_flat)
    assert gather(LAB, path) == Gathered(TEXT, None, path.name)


def test_twice_the_same_is_fine(tmp_path: Path) -> None:
    """A copy, or a hard link, at both places."""
    path = put(tmp_path, LAB.file)
    put(tmp_path, LAB.star)
    put(tmp_path, LAB.notes_flat)
    (tmp_path / LAB.notes).parent.mkdir(parents=True)
    os.link(tmp_path / LAB.notes_flat, tmp_path / LAB.notes)
    assert gather(LAB, tmp_path) == Gathered(TEXT, TEXT, LAB.file)
    assert path.read_text() == TEXT


def test_two_that_differ_are_refused(tmp_path: Path) -> None:
    """Both are named, and the other file is read all the same."""
    put(tmp_path, LAB.file)
    put(tmp_path, LAB.star, "x = 2\n")
    put(tmp_path, LAB.notes)
    found = gather(LAB, tmp_path)
    refused(found.star, LAB.file, f" {LAB.star},", "differ")
    assert found.notes == TEXT
    put(tmp_path, LAB.star)
    put(tmp_path, LAB.notes_flat, "other")
    found = gather(LAB, tmp_path)
    refused(found.notes, LAB.notes, LAB.notes_flat)
    assert found.star == TEXT


def test_what_is_missing(tmp_path: Path) -> None:
    """No ★ file is a refusal that names both places; no notes are None; nothing at all is ours."""
    found = gather(LAB, tmp_path)
    refused(found.star, f"expected {LAB.file} or {LAB.star} in {tmp_path.name}, found neither")
    assert found.notes is None
    with pytest.raises(NoSubmission, match="nobody: no such file"):
        gather(LAB, tmp_path / "nobody")
    with pytest.raises(NoSubmission):
        gather(LAB, put(tmp_path, "x.py") / "inside")


def test_only_those_names_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the neighbours of what is asked for."""
    put(tmp_path, LAB.file)
    for name in ("conftest.py", "src/minituner/__init__.py", "src/conftest.py", "setup.py"):
        put(tmp_path, name, "raise SystemExit\n")
    opened: list[str] = []
    real = os.open

    def spy(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        opened.append(Path(path).name)
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", spy)
    assert gather(LAB, tmp_path).star == TEXT
    assert opened == [tmp_path.name, "src", "minituner", LAB.star]


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


def _link(path: Path) -> None:
    path.symlink_to(put(path.parent.parent, "elsewhere.py"))


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # zeroes without end
    except PermissionError:
        pytest.skip("making a device needs root")


def _big(path: Path) -> None:
    path.write_bytes(b"#" * (MAX_BYTES + 1))


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def _latin(path: Path) -> None:
    path.write_bytes(b"x\xff")


def _nul(path: Path) -> None:
    path.write_bytes(b"x\0")


KINDS: list[tuple[Callable[[Path], None], str]] = [
    (os.mkfifo, "expected a regular file, got a pipe"),
    (_socket, "expected a regular file, got a socket"),
    (_link, "expected a regular file, got a symbolic link"),
    (_dangling, "expected a regular file, got a symbolic link"),
    (Path.mkdir, "expected a regular file, got a folder"),
    (_device, "expected a regular file, got a device"),
    (_big, f"expected at most {MAX_BYTES} bytes, got {MAX_BYTES + 1}"),
    (_sparse, f"expected at most {MAX_BYTES} bytes, got {1 << 40}"),
    (_latin, "expected UTF-8, got a bad byte at 1"),
    (_nul, "expected text, got a NUL byte at 1"),
]


@pytest.mark.parametrize(("make", "said"), KINDS)
@pytest.mark.parametrize("name", [LAB.file, LAB.star, LAB.notes, LAB.notes_flat])
def test_each_kind_is_refused_for_its_file_only(
    tmp_path: Path, make: Callable[[Path], None], said: str, name: str
) -> None:
    """At once, in one line with the path; the lab's other file is read as ever."""
    root = tmp_path / "submission"
    (root / name).parent.mkdir(parents=True)
    make(root / name)
    is_star = Path(name).suffix == ".py"
    put(root, LAB.notes_flat if is_star else LAB.star)
    found = in_time(root)
    bad, good = (found.star, found.notes) if is_star else (found.notes, found.star)
    refused(bad, name, said)
    assert good == TEXT


@pytest.mark.parametrize(("make", "said"), KINDS)
def test_each_kind_is_refused_as_the_submission(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    """A link to a whole submission is a link, too; an empty folder holds no ★ file."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "who"
    make(path)
    refused(in_time(path).star, "found neither" if make is Path.mkdir else said)


def test_the_limit_itself_is_fine(tmp_path: Path) -> None:
    """64 KiB and not a byte more; a byte order mark is taken off."""
    put(tmp_path, LAB.star, "#" * MAX_BYTES)
    assert gather(LAB, tmp_path).star == "#" * MAX_BYTES
    put(tmp_path, LAB.star, "\ufeff" + TEXT)
    assert gather(LAB, tmp_path).star == TEXT


@pytest.mark.parametrize("which", ["src", "src/minituner"])
def test_a_linked_folder_on_the_way_is_refused(tmp_path: Path, which: str) -> None:
    """Wherever it leads; a good flat file does not make up for it."""
    real = tmp_path / "real"
    put(real, LAB.file)
    root = tmp_path / "submission"
    (root / which).parent.mkdir(parents=True)
    (root / which).symlink_to(real / which)
    put(root, LAB.star)
    refused(gather(LAB, root).star, LAB.file, "got a symbolic link")


def test_a_file_in_the_place_of_a_folder_is_no_repository(tmp_path: Path) -> None:
    """`src` as a file: the flat name is looked at."""
    put(tmp_path, "src")
    put(tmp_path, LAB.star)
    assert gather(LAB, tmp_path) == Gathered(TEXT, None, LAB.star)


def _same_time(path: Path) -> None:
    path.write_text("x = 22\n")
    os.utime(path, (2, 2))


@pytest.mark.parametrize(
    "event",
    [
        lambda path: path.write_text("x = 22\n"),
        lambda path: os.utime(path, (1, 1)),
        _same_time,
        lambda path: path.unlink(),
    ],
)
def test_a_change_while_it_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    event: Callable[[Path], None],
) -> None:
    """Half of one file and half of another is refused, also with its time put back."""
    path = put(tmp_path, LAB.star)
    os.utime(path, (2, 2))
    real = os.read

    def slow(file: int, most: int) -> bytes:
        part = real(file, most)
        if part and path.exists():
            event(path)
        return part

    monkeypatch.setattr(os, "read", slow)
    refused(gather(LAB, tmp_path).star, LAB.star, "changed while it was read")


def test_a_file_that_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer bytes than the file has are not the file, even with no clock tick between."""
    put(tmp_path, LAB.star)
    parts = [b"x =", b""]
    monkeypatch.setattr(os, "read", lambda file, most: parts.pop(0))
    refused(gather(LAB, tmp_path).star, LAB.star, "changed while it was read")


@pytest.mark.parametrize(
    ("swap", "said"),
    [
        (_link, "cannot be read"),
        (os.mkfifo, "got a pipe"),
        (Path.unlink, "vanished while it was read"),
        (_socket, "cannot be read"),
    ],
)
def test_a_file_exchanged_after_it_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: Callable[[Path], None], said: str
) -> None:
    """The look and the opening are two calls; what is put between them is refused, never read."""
    root = tmp_path / "submission"
    path = put(root, LAB.star)
    real = os.stat

    def looked(
        name: str, *, dir_fd: int | None = None, follow_symlinks: bool = True
    ) -> os.stat_result:
        result = real(name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if name == LAB.star and dir_fd is not None:
            path.unlink()
            if swap is not Path.unlink:
                swap(path)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", looked)
        found = in_time(root)
    refused(found.star, LAB.star, said)


def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal with the system's reason, whoever runs the tests."""
    put(tmp_path, LAB.star)

    def closed(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", closed)
        found = gather(LAB, tmp_path)
    refused(found.star, "cannot be read (Permission denied)")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"a\nb", "a\\nb"),
        (b"\x1b[31m", "\\x1b[31m"),
        (b"\xff", "\\xff"),
        ("\u202e".encode(), "\\u202e"),
        ("ñ {x} 'q'".encode(), "ñ {x} 'q'"),
    ],
)
def test_an_odd_name_stays_on_its_line(tmp_path: Path, name: bytes, shown: str) -> None:
    """Controls, bidirectional marks and bad bytes are printed as escapes, as file and as folder."""
    path = tmp_path / os.fsdecode(name)
    path.mkdir()
    refused(gather(LAB, path).star, f" in {shown},")
    path.rmdir()
    path.write_text(TEXT)
    assert gather(LAB, path) == Gathered(TEXT, None, shown)
