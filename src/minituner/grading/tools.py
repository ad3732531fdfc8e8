"""What reads one text without running it: Python's parser, ruff's advice, mypy for the types gate.

mypy sees a copy without comments and the grader's own settings, so the file cannot talk it round.
Source of WarmMypy: mypy.build at the pinned version. It goes the batch road (load_graph, then
process_stale_scc), so that its answers are those of `mypy --strict`.
Leaves out: our own rules (gates.py), limits on what a hostile text makes these do (desk.py).
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from minituner.grading.registry import ROOT
from minituner.grading.report import GateResult
from minituner.words import say

MAX_DEPTH = 200  # levels of the syntax tree; honest files measure 12 to 17
COOKIE = re.compile(r"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")

# How mypy's traceback ends on a text that is too much for it: a type of a thousand million letters.
TOO_MUCH = ("MemoryError", "RecursionError", "too long to serialize")
OUT_OF_CPU = getattr(signal, "SIGXCPU", 24)  # Windows has none, and no desk
MYPY_SECONDS = 600.0  # a first run, on a cold disk, reads all of torch's types


def _cache() -> Path:
    """Where mypy keeps what it knows of torch: in the clone, or with a user who may not write."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    for folder in (ROOT / ".mypy_cache", home / "minituner" / "mypy"):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    return Path(os.devnull)  # mypy's word for none: each command is cold, the warm desk is not


CACHE = _cache()
MYPY_FLAGS: tuple[str, ...] = (
    "--strict",
    "--config-file=",
    f"--cache-dir={CACHE}",
    "--no-error-summary",
    "--show-traceback",
)
MYPY_FLAGS += ("--no-color-output", "--hide-error-context")
MYPY_PATH = str(ROOT / "src")  # MYPYPATH: the given modules
# Errors, unused names, likely bugs: worth a learner's eye, at no cost.
RUFF = ("check", "--isolated", "--ignore-noqa", "--select=E,F,B", "--line-length=100")

Comment = tuple[int, int, str]  # line, column, text
Nodes = Sequence[ast.AST]  # a tree, walked once


@dataclass(frozen=True)
class Source:
    """A file that can be read, parsed or not."""

    text: str
    tree: ast.Module | None
    trouble: str = ""  # why it cannot be parsed, with its line
    comments: tuple[Comment, ...] = ()


def parse(text: str, name: str) -> Source:
    """The source and its tree, or what is wrong with it: no Python, or deeper than any honest file.

    To be called where a crash does no harm: Python's own parser is not proof against every text.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a "\D" in a docstring is the learner's business
            tree = ast.parse(text)
            long = (n for n in strings(list(ast.walk(tree))) if len(str(n.value)) > MAX_DEPTH)
            quoted = [depth(code) for _, code in quoted_code(list(long))]
        deepest, said_aside = max(depth(tree), *quoted, 0), tuple(comments(text))
    except SyntaxError as error:
        line = (error.text or "").strip()[:80]  # a line may be the whole file
        return Source(text, None, f"{name}:{error.lineno}  {line}\n{error.msg}")
    except (ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        return Source(text, None, f"{name}: {type(error).__name__}: {error}")
    trouble = ""
    if deepest > MAX_DEPTH:
        trouble = say(
            "expected at most {most} levels of nesting, got {got}", most=MAX_DEPTH, got=deepest
        )
    for cookie in filter(None, map(COOKIE.match, unified(text).split("\n")[:2])):
        if cookie[1].lower().replace("_", "-") not in ("utf-8", "utf8", "ascii"):
            trouble = say("expected UTF-8, got a file that declares {coding}", coding=cookie[1])
    if trouble:
        return Source(text, None, f"{name}: {trouble}")
    return Source(text, tree, comments=said_aside)


def depth(tree: ast.AST) -> int:
    """Levels of the tree, counted without recursion."""
    deepest, todo = 0, [(tree, 1)]
    while todo:
        node, level = todo.pop()
        deepest = max(deepest, level)
        todo += [(child, level + 1) for child in ast.iter_child_nodes(node)]
    return deepest


def strings(nodes: Nodes) -> Iterator[ast.Constant]:
    """Every string of the file but the docstrings."""
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in (node for node in nodes if isinstance(node, ast.Constant)):
        if isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def quoted_code(nodes: Nodes) -> Iterator[tuple[ast.Constant, ast.Expression]]:
    """Each string that reads as an expression: mypy reads annotations in quotes."""
    for node in strings(nodes):
        with suppress(SyntaxError, ValueError):
            yield node, ast.parse(str(node.value).strip(), mode="eval")


def unified(text: str) -> str:
    """Lines that end as Python's parser sees them: a lone carriage return ends one, too."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def comments(text: str) -> list[Comment]:
    """Each comment and where it stands."""
    tokens = tokenize.generate_tokens(io.StringIO(unified(text)).readline)
    return [(*t.start, t.string) for t in tokens if t.type == tokenize.COMMENT]


def without_comments(text: str) -> str:
    """The source with every comment blanked, line by line, so that none can talk to mypy."""
    lines = unified(text).split("\n")
    for line, column, comment in comments(text):
        kept, rest = lines[line - 1][:column], lines[line - 1][column + len(comment) :]
        lines[line - 1] = kept.rstrip() + rest
    return "\n".join(lines)


def check_types(path: Path, text: str) -> GateResult:
    """`mypy --strict` on the file, its comments blanked."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_text(without_comments(text), encoding="utf-8")
        # mypy's cache knows a file by its second and size: a number no other has, so it reads this.
        os.utime(copy, (0, secrets.randbits(31)))
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "mypy", *MYPY_FLAGS, copy.name],
                cwd=folder,
                env=os.environ | {"MYPYPATH": MYPY_PATH},
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=MYPY_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return GateResult("types", "error", (say("mypy did not run: {why}", why=error),))
    if any(end in done.stderr + done.stdout for end in TOO_MUCH):
        said = say("mypy runs out of memory on this file; write its types simpler")
        return GateResult("types", "failed", (said,))
    if done.returncode == -OUT_OF_CPU:  # the desk's limit, which the command inherits
        why = say("it takes too much processor time")
        return GateResult("types", "failed", (say("mypy did not run: {why}", why=why),))
    if done.returncode in (0, 1, 2) and not done.stderr.strip():
        return types_gate(done.stdout.splitlines())
    why = (done.stderr or done.stdout).strip()[-500:]
    return GateResult("types", "error", (say("mypy did not run: {why}", why=why),))


def types_gate(lines: Sequence[str]) -> GateResult:
    """The gate from what mypy said; notes do not count, a crash of its own is no finding."""
    found = tuple(line for line in lines if ": error:" in line)
    broken = next((line for line in found if "INTERNAL ERROR" in line), "")
    if broken:
        return GateResult("types", "error", (say("mypy did not run: {why}", why=broken),))
    return GateResult("types", "failed" if found else "passed", found)


class Elsewhere(Exception):
    """The text imports a module that is not in memory: the disk cache has it."""


class WarmMypy:
    """A build of everything a submission may import, in memory; `check` belongs in a fork of it."""

    def __init__(self, allowed: tuple[str, ...], star: str) -> None:
        import mypy.build
        import mypy.main
        from mypy.defaults import RECURSION_LIMIT
        from mypy.fscache import FileSystemCache
        from mypy.modulefinder import BuildSource

        sys.setrecursionlimit(RECURSION_LIMIT)
        os.environ["MYPYPATH"] = MYPY_PATH
        self.star, self.module = Path(star), star.removesuffix(".py")
        # A fresh number each time: from a cached answer mypy would load nothing into memory.
        imports = "".join(f"import {module}\n" for module in allowed)
        self.star.write_text(f"{imports}{os.urandom(8).hex()!r}\n", encoding="utf-8")
        _, options = mypy.main.process_options([*MYPY_FLAGS, star])
        self.lines: list[str] = []
        self.sources = [BuildSource(star, self.module)]

        def heard(_: str | None, lines: list[str], serious: bool) -> None:
            self.lines += lines

        built = mypy.build.build(self.sources, options, None, heard, FileSystemCache())
        self.manager, self.graph = built.manager, built.graph
        self.manager.metastore.close()
        # Nothing stays known of the neutral file, nor of files that may change.
        del self.graph[self.module], self.manager.modules[self.module]
        self.manager.ast_cache.clear()
        self.manager.errors.reset()
        self.manager.fscache.flush()
        if self.lines or not set(allowed) <= self.manager.modules.keys():
            raise RuntimeError(f"the neutral file: expected no finding, got {self.lines}")

    def check(self, text: str) -> GateResult:
        """The types gate on a text.

        Raises:
            Elsewhere: it imports a module that is not loaded.
        """
        from mypy.build import SCC, State, load_graph, process_stale_scc
        from mypy.errors import CompileError
        from mypy.metastore import FilesystemMetadataStore

        self.star.write_text(without_comments(text), encoding="utf-8")
        # Neither read nor written: a database handle does not survive a fork.
        self.manager.metastore = FilesystemMetadataStore(os.devnull)
        new: list[State] = []
        try:
            load_graph(self.sources, self.manager, self.graph, new)
            if len(new) != 1:
                raise Elsewhere
            self.manager.import_map[self.module] = new[0].dependencies_set
            process_stale_scc(self.graph, SCC({self.module}), self.manager)
        except CompileError as error:  # a finding that mypy cannot go on after
            self.lines += error.messages
        return types_gate(self.lines)


def advise(path: Path) -> GateResult:
    """ruff's findings on a file as advice."""
    return advise_text(path.name, path.read_text(encoding="utf-8"))


def advise_text(name: str, text: str) -> GateResult:
    """ruff's findings as advice: the outcome is passed unless ruff itself is missing."""
    try:
        from ruff import find_ruff_bin  # type: ignore[import-untyped]  # it ships no types

        command = [find_ruff_bin(), *RUFF, "--output-format=json", f"--stdin-filename={name}", "-"]
        done = subprocess.run(
            command, input=text.encode(), capture_output=True, timeout=60, check=False
        )
        rows = json.loads(done.stdout)
    except (ImportError, OSError, ValueError, subprocess.TimeoutExpired) as error:
        return GateResult("ruff", "passed", (say("ruff did not run: {why}", why=error),))
    found = (f"{name}:{r['location']['row']} {r['code']} {r['message']}" for r in rows)
    return GateResult("ruff", "passed", tuple(found))
