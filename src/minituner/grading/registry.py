"""lab/labs.toml as typed objects: the one list of labs, tasks, points and hints.

Leaves out: any judgement. tests/upkeep checks that the registry agrees with tests, pages and stubs.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from minituner.words import language, one_of, page

LISTS = ("reading", "expressions", "names", "imports")
ROOT = Path(__file__).resolve().parents[3]


class RegistryError(Exception):
    """The registry cannot answer: no repository here, or no such lab. Ours or the caller's."""


@dataclass(frozen=True)
class Both:
    """A text in English and Spanish."""

    en: str
    es: str

    def __str__(self) -> str:
        return self.es if language() == "es" else self.en


@dataclass(frozen=True)
class Task:
    """One task of a lab; `kind` is code, types (mypy) or notes."""

    id: str
    kind: str
    points: int
    needs: tuple[str, ...]
    tests: tuple[str, ...]  # function names in the lab's contract
    title: Both
    hints: tuple[Both, ...]  # a question, a pointer, a near-solution
    pitfall: str


@dataclass(frozen=True)
class Predict:
    """A line of the notes to fill in before a task is written, and the values that answer it."""

    task: str
    keys: tuple[str, ...]
    label: Both


@dataclass(frozen=True)
class Lab:
    """One lab; paths are relative to the repository's root."""

    id: str
    slug: str
    title: Both
    done: Both  # what is said when all is green
    file: str
    contract: str
    page: str
    blueprint: str
    experiment: str
    notes: str
    notes_flat: str
    reading: tuple[str, ...]
    expressions: tuple[str, ...]
    names: tuple[str, ...]  # what the file must define
    imports: tuple[str, ...]
    predict: tuple[Predict, ...]
    within: dict[str, float]  # relative, by key of the notes; what is not named agrees exactly
    blocks: dict[str, Both]
    tasks: tuple[Task, ...]

    @property
    def star(self) -> str:
        """The file's own name, lora.py."""
        return Path(self.file).name

    @property
    def module(self) -> str:
        """minituner.lora"""
        return f"minituner.{Path(self.file).stem}"

    @property
    def option(self) -> str:
        """What a command needs to mean this lab; nothing for the first."""
        return "" if self.id == next(iter(labs())) else f" --lab {self.id}"

    @property
    def digest_key(self) -> str:
        """The notes' row for the file's sha256: lora_sha256."""
        return f"{Path(self.file).stem}_sha256"

    @property
    def reference(self) -> str:
        return f"solutions/{self.star}"

    @property
    def max_score(self) -> int:
        return sum(task.points for task in self.tasks)

    @property
    def code(self) -> frozenset[str]:
        """The ids of the tasks that tests pay for; types and notes wait for all of them."""
        return frozenset(task.id for task in self.tasks if task.kind == "code")

    def task(self, task_id: str) -> Task:
        return next(task for task in self.tasks if task.id == task_id)

    def todo(self, message: str) -> str:
        """A stub's NotImplementedError in the reader's language; other texts as they are."""
        known = {task.id: task for task in self.tasks}
        task = known.get(message.partition(":")[0])
        return f"{task.id}: {task.title}; {page(self.page)}" if task else message

    def task_of(self) -> dict[str, str]:
        """Test function name -> task id."""
        return {name: task.id for task in self.tasks for name in task.tests}


def _task(row: dict[str, Any]) -> Task:
    hints = zip(row["hints"]["en"], row["hints"]["es"], strict=True)
    return Task(
        id=row["id"],
        kind=row.get("kind", "code"),
        points=row["points"],
        needs=tuple(row["needs"]),
        tests=tuple(row["tests"]),
        title=Both(**row["title"]),
        hints=tuple(Both(en, es) for en, es in hints),
        pitfall=row["pitfall"],
    )


def _lab(row: dict[str, Any]) -> Lab:
    row |= {name: tuple(row[name]) for name in LISTS}
    row |= {name: Both(**row[name]) for name in ("title", "done")}
    row["predict"] = tuple(
        Predict(one["task"], tuple(one["keys"]), Both(**one["label"]))
        for one in row.get("predict", ())
    )
    row.setdefault("within", {})
    row["blocks"] = {name: Both(**both) for name, both in row["blocks"].items()}
    tasks = tuple(_task(task) for task in row.pop("task"))
    return Lab(tasks=tasks, **row)


@cache
def labs() -> dict[str, Lab]:
    """Every lab by its id, in order.

    Raises:
        RegistryError: lab/labs.toml is not where an editable install of a clone has it.
    """
    path = ROOT / "lab" / "labs.toml"
    if not path.is_file():
        raise RegistryError(f"lab/labs.toml: not found under {ROOT}; run from a clone (make lab)")
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["lab"]
    return {lab.id: lab for lab in map(_lab, rows)}


def given() -> dict[str, Path]:
    """Module name -> file of everything of ours that a ★ file may import."""
    names = sorted(
        {name for lab in labs().values() for name in lab.imports if name.startswith("minituner.")}
    )
    return {name: ROOT / f"src/{name.replace('.', '/')}.py" for name in names}


def lab(lab_id: str) -> Lab:
    """The lab with this id; 1 is 01.

    Raises:
        RegistryError: there is none.
    """
    try:
        return labs()[lab_id.zfill(2)]
    except KeyError:
        raise RegistryError(one_of("--lab", labs(), lab_id)) from None
