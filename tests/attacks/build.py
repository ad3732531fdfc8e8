"""Makes each hostile submission of attacks.toml, in a folder and with fields of the test's own.

An attack's text may hold fields: {{MARK}} a path that nothing may make, {{TREE}} a folder that
nothing may change, {{PORT}} {{VICTIM}} {{TITLE}} {{ROOT}}, and {{RIGHT}} {{EMPTY}} {{WIRES}} for
correct.py, empty.py and _wires.py; in a lab after 00, for its reference and for its names alone.
Leaves out: running anything (outside.py, the exam's tests).
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from minituner.grading.registry import ROOT, Lab, lab

HERE = Path(__file__).resolve().parent
TEXTS = HERE / "submissions"
STAR, NESTED, NOTES = "lora.py", "src/minituner/lora.py", "00-notes.md"
SNIPPETS = {"RIGHT": "correct.py", "EMPTY": "empty.py", "WIRES": "_wires.py"}
ANSWER = """import torch


def answer(*args, **more):
    return None
"""
MEASURED = """| value | expected | measured |
|---|---|---|
| `initial_output_diff` | 0.0 | {diff} |
| `grad_A_at_init` | 0.0 | {grad_a} |
| `grad_B_at_init` | > 0 | {grad_b} |
| `merge_diff` | > 0 | {merge} |
| `trainable_params` | 1024 | {count} |
| `lora_sha256` | | {sha} |
"""
TRUE = {"diff": "0.0", "grad_a": "0.0", "grad_b": "0.0159357", "merge": "5.9e-07", "count": "1024"}
ABSURD = {"diff": "nan", "grad_a": "-0", "grad_b": "1e999", "merge": "9" * 5000, "count": "1_024"}
MARKUP = {"diff": "\x1b[2J", "grad_a": "<script>", "grad_b": "::error::", "merge": "{x}"}


@dataclass(frozen=True)
class Attack:
    """One row of attacks.toml."""

    name: str
    kind: str  # file: submissions/<text or name>.py; folder: made by the builder `build`
    gate: str  # passes, refused, unreadable, or "costs S2": what the source gates say today
    expected: int  # the score of a sound exam, exactly
    tasks_failed: tuple[str, ...]  # tasks that must not pass; ("all",) is every one
    reason: str  # a pattern; some message of the report matches it
    outside: str  # what it does without a box; a word of outside.py
    about_en: str
    about_es: str
    lab: str = "00"  # whose ★ file it stands for
    text: str = ""  # of a file that serves several labs
    build: str = ""
    limits: str = ""  # a row of LIMITS in test_attacks.py, where it would take all there is
    open: str = ""  # a hole that is known and not closed: why; the test then expects to fail
    harm: tuple[str, ...] = ()  # what must be untouched: mark, tree, process, port, victim, …


def attacks() -> tuple[Attack, ...]:
    """Every attack, in the file's order."""
    rows = tomllib.loads((HERE / "attacks.toml").read_text(encoding="utf-8"))["attack"]
    return tuple(_attack(row) for row in rows)


def _attack(row: dict[str, object]) -> Attack:
    about = row.pop("about")
    assert isinstance(about, dict)
    lists = {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
    return Attack(**(row | lists), about_en=about["en"], about_es=about["es"])  # type: ignore[arg-type]  # the file's shape is tested


def render(name: str, fields: Mapping[str, str], which: Lab | None = None) -> str:
    """The text of submissions/<name>.py with its fields filled in; others stay as they are."""
    text = (TEXTS / f"{name}.py").read_bytes().decode("utf-8")
    for field, snippet in _snippets(which or lab("00")).items():
        text = text.replace(f"{{{{{field}}}}}", snippet)
    for field, value in fields.items():
        text = text.replace(f"{{{{{field}}}}}", value)
    return text


def _snippets(which: Lab) -> dict[str, str]:
    """What stands for {{RIGHT}}, {{EMPTY}} and {{WIRES}} in a lab."""
    found = {field: _body(TEXTS / snippet) for field, snippet in SNIPPETS.items()}
    if which.id == "00":
        return found
    calls = [f"def {one}(*args, **more):\n    return answer(*args, **more)" for one in which.names]
    own = {"RIGHT": _body(ROOT / which.reference), "EMPTY": "\n\n\n".join([ANSWER, *calls])}
    return found | own


def _body(path: Path) -> str:
    """A file without its docstring."""
    text = path.read_text(encoding="utf-8")
    first = ast.parse(text).body[0]
    return "".join(text.splitlines(keepends=True)[first.end_lineno :]).strip("\n")


def make(attack: Attack, folder: Path, fields: Mapping[str, str]) -> Path:
    """Put the submission into `folder`, which exists and is empty; return the folder."""
    if attack.kind == "file":
        which = lab(attack.lab)
        text = render(attack.text or attack.name, fields, which)
        (folder / which.star).write_bytes(text.encode("utf-8"))
    else:
        BUILDERS[attack.build](folder, render("correct", fields), fields)
    return folder


Builder = Callable[[Path, str, Mapping[str, str]], None]
BUILDERS: dict[str, Builder] = {}


def builder(function: Builder) -> Builder:
    BUILDERS[function.__name__] = function
    return function


def _notes(values: Mapping[str, str], stale: bool = False) -> Builder:
    """A right file, and notes with these values."""

    def build(folder: Path, right: str, fields: Mapping[str, str]) -> None:
        (folder / STAR).write_text(right, encoding="utf-8")
        sha = hashlib.sha256(b"" if stale else right.encode()).hexdigest()
        (folder / NOTES).write_text(MEASURED.format(**values, sha=sha), encoding="utf-8")

    return build


BUILDERS["noted"] = _notes(TRUE)
BUILDERS["notes_lying"] = _notes(TRUE | {"diff": "1e-9", "count": "1025"})
BUILDERS["notes_absurd"] = _notes(ABSURD)
BUILDERS["notes_markup"] = _notes(ABSURD | MARKUP)
BUILDERS["notes_stale"] = _notes(TRUE, stale=True)


@builder
def notes_fifo(folder: Path, right: str, fields: Mapping[str, str]) -> None:
    (folder / STAR).write_text(right, encoding="utf-8")
    os.mkfifo(folder / NOTES)


@builder
def notes_linked(folder: Path, right: str, fields: Mapping[str, str]) -> None:
    """The notes are a link to true ones outside the submission."""
    away = Path(fields["TREE"]) / "away-notes"
    away.mkdir(exist_ok=True)
    BUILDERS["noted"](away, right, fields)
    (folder / STAR).write_text(right, encoding="utf-8")
    (folder / NOTES).symlink_to(away / NOTES)


@builder
def notes_sparse(folder: Path, right: str, fields: Mapping[str, str]) -> None:
    BUILDERS["noted"](folder, right, fields)
    os.truncate(folder / NOTES, 4 << 30)


def _linked(target: str) -> Builder:
    """lora.py is a link; {{ROOT}} in its target is the repository."""

    def build(folder: Path, right: str, fields: Mapping[str, str]) -> None:
        (folder / STAR).symlink_to(target.replace("{{ROOT}}", fields.get("ROOT", "/")))

    return build


BUILDERS["link_password"] = _linked("/etc/passwd")
BUILDERS["link_reference"] = _linked("{{ROOT}}/solutions/lora.py")
BUILDERS["link_zero"] = _linked("/dev/zero")
BUILDERS["link_loop"] = _linked(STAR)


@builder
def link_parent(folder: Path, right: str, fields: Mapping[str, str]) -> None:
    """src is a link to a tree outside the submission."""
    away = Path(fields["TREE"]) / "away"
    (away / "minituner").mkdir(parents=True, exist_ok=True)
    (away / "minituner" / STAR).write_text(right, encoding="utf-8")
    (folder / "src").symlink_to(away)


@builder
def link_hard(folder: Path, right: str, fields: Mapping[str, str]) -> None:
    """A second name for the same file: a regular file like any other."""
    (folder / "other.py").write_text(right, encoding="utf-8")
    os.link(folder / "other.py", folder / STAR)


@builder
def fifo(folder: Path, right: str, fields: Mapping[str, str]) -> None:
    os.mkfifo(folder / STAR)


@builder
def unix_socket(folder: Path, right: str, fields: Mapping[str, str]) -> None:
    with contextlib.chdir(folder), socket.socket(socket.AF_UNIX) as wire:
        wire.bind(STAR)  # a socket's path holds 108 bytes


def _laid(**files: str) -> Builder:
    """A right file at each of these paths, with its own last line."""

    def build(folder: Path, right: str, fields: Mapping[str, str]) -> None:
        for path, last in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(f"{right}\n{last}\n", encoding="utf-8")

    return build


BUILDERS["folder_in_place"] = _laid(**{f"{STAR}/__init__.py": ""})
BUILDERS["both_same"] = _laid(**{NESTED: "", STAR: ""})
BUILDERS["both_differ"] = _laid(**{NESTED: "", STAR: "# another"})


@builder
def surroundings(folder: Path, right: str, fields: Mapping[str, str]) -> None:
    """Whatever a tool might pick up beside the file: each would write the mark or mute mypy."""
    wrong = 'WRONG: int = "text"\n\n' + right
    acts = f"open({fields['MARK']!r}, 'w').close()\n"
    code = ("conftest", "sitecustomize", "usercustomize", "torch", "math", "typing", "__init__")
    files = {f"{name}.py": acts for name in code} | {
        STAR: wrong,
        "lora.pyi": "def __getattr__(name: str) -> object: ...\n",
        "mypy.ini": f"[mypy]\nignore_errors = True\nplugins = {folder}/plugin.py\n",
        "plugin.py": acts,
        "pyproject.toml": "[tool.mypy]\nignore_errors = true\n",
        "setup.cfg": "[mypy]\nignore_errors = True\n",
        "pytest.ini": "[pytest]\naddopts = -p plugin --collect-only\n",
        "ruff.toml": 'extend = "/dev/zero"\n',
        "-rf *\n\x1b[2J.py": acts,
        "$(touch x).py": acts,
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _bytes(change: Callable[[str], bytes]) -> Builder:
    def build(folder: Path, right: str, fields: Mapping[str, str]) -> None:
        (folder / STAR).write_bytes(change(right))

    return build


EMPTY = _body(TEXTS / "empty.py")
BUILDERS |= {
    "bom": _bytes(lambda right: b"\xef\xbb\xbf" + right.encode()),
    "latin1": _bytes(lambda right: b"# coding: latin-1\nX = '\xe9'\n" + right.encode()),
    "utf16": _bytes(lambda right: right.encode("utf-16")),
    "nul": _bytes(lambda right: right.encode() + b"\n# \x00\n"),
    "surrogate": _bytes(lambda right: b"X = '\xed\xa0\x80'\n" + right.encode()),
    "too_large": _bytes(lambda right: right.encode().ljust((64 << 10) + 1, b"\n")),
    "brackets": _bytes(lambda right: b"x = " + b"(" * (64_000)),
    "unary": _bytes(lambda right: b"x = " + b"-" * 60_000 + b"1\n" + EMPTY.encode()),
    "attributes": _bytes(lambda right: b"x = a" + b".a" * 30_000 + b"\n" + EMPTY.encode()),
    "sums": _bytes(lambda right: b"x = 1" + b" + 1" * 900 + b"\n" + right.encode()),
    "digits": _bytes(lambda right: b"x = " + b"9" * 50_000 + b"\n" + EMPTY.encode()),
    "elifs": _bytes(lambda right: (EMPTY + "\nif 0: 0\n" + "elif 1: 0\n" * 4000).encode()),
}


@builder
def sparse(folder: Path, right: str, fields: Mapping[str, str]) -> None:
    """A right file and then 1 TiB of nothing."""
    (folder / STAR).write_text(right, encoding="utf-8")
    os.truncate(folder / STAR, 1 << 40)
