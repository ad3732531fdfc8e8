"""Which submissions there are, where results lie, what they are worth: one JSON file each.

A result counts while the grader, the bytes read and what was asked are the same; any other is
stale. So the folder of results is the cache, and nothing else has to be kept in step.
Leaves out: grading (cohort.py) and the instructor's page (page.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from minituner.grading import intake
from minituner.grading.intake import shown
from minituner.grading.practice import versions
from minituner.grading.registry import ROOT, Lab
from minituner.words import say

RESULT_VERSION = 1
LONGEST_NAME = 150  # of a result's file; file systems stop at 255 bytes
KEPT_OF_LONG = 60
# They show results and make none: a change there regrades nobody.
READERS = {"figures.py", "page.py", "page_words.py", "formats"}
Result = dict[str, Any]  # Any: JSON
Reader = Callable[[Lab, Path], "Source"]


class CohortError(Exception):
    """Nothing can be graded here: a wrong call, or a grader that does not start. One line."""


@dataclass(frozen=True)
class Source:
    """What was read of one submission."""

    digest: str  # sha256 of the texts, or of why they are refused
    label: str  # what the report calls the file


@dataclass(frozen=True)
class Asked:
    """What a verdict was asked for; a result answers only the same question."""

    lab: str
    require: str
    seed: int | None  # None: each submission has a seed of its own
    language: str


def read(lab: Lab, submission: Path) -> Source:
    """What the exam's own intake reads, and nothing else of the folder."""
    try:
        found = intake.gather(lab, submission)
    except intake.NoSubmission as error:  # taken away since the folder was listed
        return Source(_digest("gone", str(error)), lab.star)
    return Source(_digest(repr(found.star), repr(found.notes)), found.label)


def children(folder: Path, out: Path) -> tuple[list[str], list[str]]:
    """The submissions of a folder, in order, and what else lies there; hidden names are neither.

    Raises:
        CohortError: there is no such folder.
    """
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        why = error.strerror or repr(error)
        raise CohortError(
            say("expected a folder of submissions, got {path}: {why}", path=folder, why=why)
        ) from None
    entries.sort(key=lambda entry: os.fsencode(entry.name))
    ours = [out.resolve(), *out.resolve().parents]
    names, skipped = [], []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if Path(entry.path).resolve() not in ours:
                names.append(entry.name)
        elif entry.is_file(follow_symlinks=False) and entry.name.endswith(".py"):
            names.append(entry.name)
        else:
            skipped.append(shown(entry.name))
    return names, skipped


def grader_version(lab: Lab) -> str:
    """A digest over everything a verdict depends on besides the submission."""
    source = ROOT / "src" / "minituner"
    given = [f"{name.replace('.', '/')}.py" for name in lab.imports if "minituner." in name]
    judges = (source / "grading").rglob("*.py")
    files = [path for path in judges if not READERS & {path.name, path.parent.name}]
    files += [ROOT / name for name in (lab.contract, lab.reference, lab.experiment)]
    files += [ROOT / "src" / name for name in given]
    files += [*source.glob("*.es.toml"), ROOT / "lab" / "labs.toml"]
    files += [ROOT / "tests" / "mutants" / f"{Path(lab.star).stem}.toml"]
    parts = [f"{tool} {number}" for tool, number in sorted(versions().items())]
    for path in sorted(path for path in files if path.is_file()):
        parts += [path.relative_to(ROOT).as_posix(), path.read_bytes().hex()]
    return _digest(*parts)


def _digest(*parts: str) -> str:
    """Lengths keep ("ab", "c") and ("a", "bc") apart; surrogates may stand in a file's name."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "big") + data)
    return hashed.hexdigest()


def stem(name: str) -> str:
    """A safe name for the result's file; two different names never share one (on Linux)."""

    def escape(found: re.Match[bytes]) -> bytes:
        return b"%%%02X" % found[0][0]

    raw = os.fsencode(name)
    safe = re.sub(rb"[^A-Za-z0-9_.-]|^[.-]", escape, raw).decode("ascii")
    if len(safe) <= LONGEST_NAME:
        return safe
    return f"{safe[:KEPT_OF_LONG]}~{hashlib.sha256(raw).hexdigest()}"  # ~ is escaped elsewhere


def in_shard(name: str, shard: tuple[int, int]) -> bool:
    """Whether shard (i, n), i from 1, holds the name: the same on every machine."""
    which, many = shard
    number = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")
    return number % many == which - 1


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under its name whole or not at all: synced, then renamed.

    The temporary name follows from the path, so the next run overwrites what a killed one left.
    """
    temporary = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name itself
        finally:
            os.close(folder)


def to_bytes(value: object) -> bytes:
    """JSON that people can read; a lone surrogate becomes its own escape."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return f"{text}\n".encode("utf-8", "backslashreplace")


class Store:
    """The results of one cohort: `out/results/<stem>.json`."""

    def __init__(self, out: Path, grader: str) -> None:
        self.out, self.folder, self.grader = out, out / "results", grader

    def path(self, name: str) -> Path:
        return self.folder / f"{stem(name)}.json"

    def load(self, name: str) -> Result | None:
        """The result as it lies there; None where there is none, or no whole one."""
        try:
            found = json.loads(self.path(name).read_bytes())
        except (OSError, ValueError):
            return None
        right = isinstance(found, dict) and found.get("result_version") == RESULT_VERSION
        return found if right else None

    def save(
        self, name: str, source: Source, asked: Asked, report: Result | None, error: str = ""
    ) -> None:
        """Write a verdict, or a grader's fault: no score then, and no report to misread."""
        if report is not None:
            report = report | {"file": source.label}  # a copy must not name whom it is copied from
        result = {
            "result_version": RESULT_VERSION,
            "submission": shown(name),
            "result": self.path(name).name,
            "score": report and report["score"],
            "max_score": report and report["max_score"],
            "error": error,
            "grader": self.grader,
            "source": source.digest,
            "asked": asdict(asked),
            "report": report,
        }
        with whole(self.path(name)) as file:
            file.write(to_bytes(result))

    def fresh(self, result: Result, source: Source) -> bool:
        """Whether this grader made the result, of this source."""
        return bool(result["grader"] == self.grader and result["source"] == source.digest)

    def answers(self, result: Result, source: Source, asked: Asked) -> bool:
        """Whether the result needs no grading again; a grader's fault always does."""
        same = result["asked"] == asdict(asked) and not result["error"]
        return same and self.fresh(result, source)

    @contextmanager
    def alone(self, shard: tuple[int, int]) -> Iterator[None]:
        """Makes the folders; no second run of the same shard writes here meanwhile.

        Raises:
            CohortError: one is at work already. The kernel forgets the lock of a killed run.
        """
        import fcntl  # not on Windows, where the other commands import this module too

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.out / ".lock-{}-of-{}".format(*shard)).open("wb")
        except OSError as error:
            why = error.strerror or repr(error)
            raise CohortError(say("--out: {path}: {why}", path=self.out, why=why)) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                said = say(
                    "{path}: another run is at work there; wait for it or give another --out",
                    path=self.out,
                )
                raise CohortError(said) from None
            yield
