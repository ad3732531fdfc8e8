"""What a file must be before it is run: readable, honest source. BLUEPRINT.md lists these rules.

Reads the syntax tree and the comments; executes nothing. Three prices: a *refused* file earns no
code task, a checker switched off costs the mypy task, nn.Linear as a factor costs its own.
Leaves out: safety. A list of names stops accidents; stopping attacks is a sandbox's work.
"""

from __future__ import annotations

import ast
import difflib
import io
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path

from minituner.grading.registry import Lab
from minituner.grading.report import GateResult
from minituner.words import say

MAX_BYTES = 64 * 1024

FORBIDDEN_NAMES = frozenset(
    ("exec", "eval", "compile", "__import__", "__builtins__", "__loader__", "__spec__")
)
FORBIDDEN_CALLS = frozenset(("open", "input", "breakpoint", "globals", "vars"))  # fine as own names
FORBIDDEN_ATTRIBUTES = frozenset(
    (
        "__globals__",
        "__builtins__",
        "__subclasses__",
        "__bases__",
        "__mro__",
        "__base__",
        "__code__",
    )
) | {"__closure__", "__loader__", "__spec__", "__import__", "__getattribute__", "f_back"}
FORBIDDEN_TORCH = (
    "torch.hub",
    "torch.package",
    "torch.multiprocessing",
    "torch.utils.cpp_extension",
)
SWITCHES = frozenset(("Any", "cast", "TYPE_CHECKING", "no_type_check", "no_type_check_decorator"))
SWITCH_COMMENT = re.compile(r"#\s*(type:\s*ignore|mypy:|pyright:|pyre-)", re.IGNORECASE)
REACHING = frozenset(("getattr", "setattr", "delattr", "hasattr"))
RANKS = frozenset(("r", "rank"))


@dataclass(frozen=True)
class Source:
    """A file that can be read, parsed or not."""

    text: str
    tree: ast.Module | None
    trouble: str = ""  # why it cannot be parsed, with its line


def intake(path: Path) -> Source | str:
    """The file's source, or one line saying why it is refused."""
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
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return say("{path}: expected UTF-8, got a bad byte at {at}", path=path, at=error.start)
    try:
        return Source(text, ast.parse(text))
    except SyntaxError as error:
        line = (error.text or "").strip()
        return Source(text, None, f"{path.name}:{error.lineno}  {line}\n{error.msg}")
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL byte, or nested too deeply
        return Source(text, None, f"{path.name}: {type(error).__name__}: {error}")


def check_source(source: Source, lab: Lab) -> tuple[GateResult, ...]:
    """The rules on the source itself: imports and calls, checkers left on, bare Parameters."""
    if source.tree is None:
        return (GateResult("source", "failed", (source.trouble,), ("*",)),)
    refused = _unsafe(source.tree, lab) + _missing(source.tree, lab)
    switched = _switches(source)
    linears = _linear_factors(source.tree)
    return (
        _gate("source", refused, ("*",)),
        _gate("checkers", switched, tuple(t.id for t in lab.tasks if t.kind == "types")),
        _gate("parameters", linears, ("A2",) if "A2" in {t.id for t in lab.tasks} else ()),
    )


def _missing(tree: ast.Module, lab: Lab) -> list[str]:
    """Names the lab asks for that nothing here defines, each with the nearest one that is."""
    lines = {
        n.name: n.lineno for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef)
    }
    defined = _bound(tree) | lines.keys()
    found = []
    for name in lab.names:
        if name not in defined:
            said = say("expected {name}, which nothing here defines", name=name)
            near = difflib.get_close_matches(name, lines.keys() - set(lab.names), n=1)
            hint = (
                say("; is it {near}, line {line}?", near=near[0], line=lines[near[0]])
                if near
                else ""
            )
            found.append(f"{lab.star}: {said}{hint}")
    return found


def _gate(name: str, found: list[str], costs: tuple[str, ...]) -> GateResult:
    return GateResult(name, "failed" if found else "passed", tuple(found), costs if found else ())


def _at(node: ast.stmt | ast.expr) -> str:
    return say("line {line}", line=node.lineno)


def _unsafe(tree: ast.Module, lab: Lab) -> list[str]:
    found = []
    own = _bound(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for module in _imported(node):
                if not _allowed(module, lab.imports):
                    said = say(
                        "import {module} is not allowed; allowed: {allowed}",
                        module=module,
                        allowed=", ".join(lab.imports),
                    )
                    found.append(f"{_at(node)}: {said}")
        elif isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES:
            found.append(f"{_at(node)}: " + say("{name} is not allowed here", name=node.id))
        elif isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_ATTRIBUTES:
            found.append(f"{_at(node)}: " + say("{name} is not allowed here", name=node.attr))
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in FORBIDDEN_CALLS - own
        ):
            found.append(f"{_at(node)}: " + say("{name} is not allowed here", name=node.func.id))
        elif isinstance(node, ast.Call) and _reaches_for_a_dunder(node):
            found.append(f"{_at(node)}: " + say("getattr and its kin must not reach for dunders"))
    return found


def _bound(tree: ast.Module) -> set[str]:
    """Names the file itself gives a meaning: parameters, variables, functions."""
    args = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    return args | functions | {node.id for node in names if isinstance(node.ctx, ast.Store)}


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules a statement may import: `from minituner import minigpt` is minituner.minigpt."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    module = node.module or ""
    if node.level:  # relative: the file lives in the package minituner
        module = f"minituner.{module}".rstrip(".") if node.level == 1 else "." * node.level + module
    if module in ("minituner", "collections"):
        return [f"{module}.{alias.name}" for alias in node.names]
    if module == "torch" or module.startswith("torch."):
        return [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return [module]


def _allowed(module: str, imports: tuple[str, ...]) -> bool:
    if module == "torch" or module.startswith("torch."):
        banned = any(module == bad or module.startswith(bad + ".") for bad in FORBIDDEN_TORCH)
        return "torch" in imports and not banned
    return module in imports


def _reaches_for_a_dunder(call: ast.Call) -> bool:
    """getattr(x, "__globals__"), or a name glued together from pieces with a double underscore."""
    if not (isinstance(call.func, ast.Name) and call.func.id in REACHING and len(call.args) > 1):
        return False
    pieces = [n.value for n in ast.walk(call.args[1]) if isinstance(n, ast.Constant)]
    return any(isinstance(piece, str) and "__" in piece for piece in pieces)


def _switches(source: Source) -> list[str]:
    """Whatever would make mypy look away."""
    assert source.tree is not None
    found = []
    for node in ast.walk(source.tree):
        named = ""
        if isinstance(node, ast.ImportFrom) and node.module in ("typing", "torch.jit"):
            named = next((a.name for a in node.names if a.name in SWITCHES), "")
        elif isinstance(node, ast.Attribute) and node.attr in SWITCHES:
            named = node.attr
        elif isinstance(node, ast.Name) and node.id == "MYPY":
            named = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            dotted = f"{node.value.id}.{node.attr}"
            named = dotted if dotted in ("sys.platform", "os.name") else ""
        if named and isinstance(node, ast.stmt | ast.expr):
            found.append(f"{_at(node)}: " + say("{name} switches the type checker off", name=named))
    for line, _, comment in _comments(source.text):
        if SWITCH_COMMENT.match(comment):
            said = say("{name} switches the type checker off", name=comment)
            found.append(f"{say('line {line}', line=line)}: {said}")
    return found


def _comments(text: str) -> list[tuple[int, int, str]]:
    """(line, column, comment) of each comment."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [(*t.start, t.string) for t in tokens if t.type == tokenize.COMMENT]


def without_comments(text: str) -> str:
    """The source with every comment blanked, line by line, so that none can talk to mypy."""
    lines = text.splitlines(keepends=True)
    for line, column, comment in _comments(text):
        kept, rest = lines[line - 1][:column], lines[line - 1][column + len(comment) :]
        lines[line - 1] = kept.rstrip() + rest
    return "".join(lines)


def _linear_factors(tree: ast.Module) -> list[str]:
    """nn.Linear calls whose size is the rank: an adapter matrix in disguise."""
    names = {"Linear"} | {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == "Linear" and alias.asname
    }
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        sizes = [*node.args[:2], *(k.value for k in node.keywords if k.arg and "features" in k.arg)]
        if called in names and any(_is_rank(size) for size in sizes):
            said = say("nn.Linear is used as an adapter matrix; use a bare nn.Parameter")
            found.append(f"{_at(node)}: {said}")
    return found


def _is_rank(size: ast.expr) -> bool:
    return getattr(size, "id", getattr(size, "attr", "")) in RANKS
