"""What a file must be before it is run: readable, honest source. BLUEPRINT.md lists these rules.

Reads the syntax tree and the comments; executes nothing. Three prices: a *refused* file earns no
code task, a checker switched off costs the mypy task, nn.Linear as a factor costs its own.
Leaves out: safety. A list of names stops accidents; stopping attacks is a sandbox's work.
"""

from __future__ import annotations

import ast
import difflib
import re

from minituner.grading.intake import intake as intake
from minituner.grading.registry import Lab
from minituner.grading.report import GateResult
from minituner.grading.tools import Comment, Nodes, quoted_code, strings
from minituner.grading.tools import Source as Source
from minituner.grading.tools import without_comments as without_comments
from minituner.words import say

FORBIDDEN_NAMES = frozenset(
    ("exec", "eval", "compile", "__import__", "__builtins__", "__loader__", "__spec__")
)
FORBIDDEN_CALLS = frozenset(("open", "input", "breakpoint", "globals", "vars"))  # fine as own names
INSIDES = ["__globals__", "__builtins__", "__subclasses__", "__bases__", "__mro__", "__base__"]
INSIDES += ["__code__", "__closure__", "__loader__", "__spec__", "__import__", "__getattribute__"]
FORBIDDEN_ATTRIBUTES = frozenset((*INSIDES, "f_back"))
# The standard library as torch's own modules have it: `torch.os` is os without an import.
HIDDEN = {"os", "sys", "io", "subprocess", "shutil", "socket", "ctypes", "importlib", "builtins"}
HIDDEN |= {"inspect", "gc", "pickle", "tempfile", "threading", "pathlib", "platform", "atexit"}
FORBIDDEN_TORCH = (
    "torch.hub",
    "torch.package",
    "torch.multiprocessing",
    "torch.utils.cpp_extension",
)
# mypy takes these names for constants, whatever they are bound to, alone or behind a dot.
CONSTANTS = frozenset(("TYPE_CHECKING", "MYPY", "PY2", "PY3"))
SWITCHES = CONSTANTS | {"Any", "cast", "no_type_check", "no_type_check_decorator"}
# Where a function says it returns these, mypy holds its body to it. Elsewhere, or under another
# name, nobody checks the claim, and what comes after is not read.
NEVER = frozenset(("NoReturn", "Never"))
GUARDS = frozenset(("sys.platform", "sys.version_info", "os.name"))
SWITCH_COMMENT = re.compile(r"#\s*(type:\s*ignore|mypy:|pyright:|pyre-)", re.IGNORECASE)
REACHING = frozenset(("getattr", "setattr", "delattr", "hasattr"))
IMPORTS = (ast.Import, ast.ImportFrom)
TELLING = (*IMPORTS, ast.Name, ast.Attribute, ast.Call, ast.MatchClass)  # what the rules look at
RANKS = frozenset(("r", "rank"))


def check_source(source: Source, lab: Lab) -> tuple[GateResult, ...]:
    """The rules on the source itself: imports and calls, checkers left on, bare Parameters."""
    if source.tree is None:
        return (GateResult("source", "failed", (source.trouble,), ("*",)),)
    nodes = tuple(ast.walk(source.tree))
    refused = _unsafe(nodes, lab) + _missing(nodes, lab)
    switched = _switches(nodes, source.comments)
    # The one lab whose A and B are the learner's own; in another, a linear of rank r is just that.
    linears = _linear_factors(nodes) if "LoRALinear" in lab.names else []
    return (
        _gate("source", refused, ("*",)),
        _gate("checkers", switched, tuple(t.id for t in lab.tasks if t.kind == "types")),
        _gate("parameters", linears, ("A2",)),
    )


def _missing(nodes: Nodes, lab: Lab) -> list[str]:
    """Names the lab asks for that nothing here defines, each with the nearest one that is."""
    lines = {n.name: n.lineno for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    defined = _bound(nodes) | lines.keys()
    found = []
    for name in lab.names:
        if name not in defined:
            said = say("expected {name}, which nothing here defines", name=name)
            near = difflib.get_close_matches(name, lines.keys() - set(lab.names), n=1)
            if near:
                said += say("; is it {near}, line {line}?", near=near[0], line=lines[near[0]])
            found.append(f"{lab.star}: {said}")
    return found


def _gate(name: str, found: list[str], costs: tuple[str, ...]) -> GateResult:
    return GateResult(name, "failed" if found else "passed", tuple(found), costs if found else ())


def _at(node: ast.stmt | ast.expr | ast.pattern) -> str:
    return say("line {line}", line=node.lineno)


def _unsafe(nodes: Nodes, lab: Lab) -> list[str]:
    found, own, modules = [], _bound(nodes), _modules(nodes)
    for node in (node for node in nodes if isinstance(node, TELLING)):
        named = ""
        if isinstance(node, IMPORTS):
            for module in _imported(node):
                if not _allowed(module, lab.imports):
                    said = say(
                        "import {module} is not allowed; allowed: {allowed}",
                        module=module,
                        allowed=", ".join(lab.imports),
                    )
                    found.append(f"{_at(node)}: {said}")
        elif isinstance(node, ast.Name) and node.id in FORBIDDEN_NAMES:
            named = node.id
        elif isinstance(node, ast.Attribute):
            hidden = node.attr in HIDDEN and _root(node) in modules
            named = node.attr if hidden or node.attr in FORBIDDEN_ATTRIBUTES else ""
        elif isinstance(node, ast.MatchClass):  # `case object(__globals__=x)` reads it, too
            named = next((name for name in node.kwd_attrs if name in FORBIDDEN_ATTRIBUTES), "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named = node.func.id if node.func.id in FORBIDDEN_CALLS - own else ""
            if _reaches_for_a_dunder(node):
                said = say("getattr and its kin must not reach for dunders")
                found.append(f"{_at(node)}: {said}")
        if named:
            found.append(f"{_at(node)}: " + say("{name} is not allowed here", name=named))
    for text in strings(nodes):  # a name in quotes serves getattr, attrgetter and format alike
        found += [
            f"{_at(text)}: " + say("{name} is not allowed here", name=name)
            for name in INSIDES
            if name in str(text.value)
        ]
    return found


def _modules(nodes: Nodes) -> set[str]:
    """What the file's imports are called in it."""
    imports = (n for n in nodes if isinstance(n, IMPORTS))
    return {(a.asname or a.name).partition(".")[0] for node in imports for a in node.names}


def _root(node: ast.expr) -> str:
    """The name that a.b.c begins with; "" where it begins with something else."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _bound(nodes: Nodes) -> set[str]:
    """Names the file itself gives a meaning: parameters, variables, functions."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Name):
            found |= {node.id} if isinstance(node.ctx, ast.Store) else set()
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return found


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
        banned = banned or not HIDDEN.isdisjoint(module.split("."))
        return "torch" in imports and not banned
    return module in imports


def _reaches_for_a_dunder(call: ast.Call) -> bool:
    """getattr(x, "__globals__"), or a name glued together from underscores ("_" * 2)."""
    if not (isinstance(call.func, ast.Name) and call.func.id in REACHING and len(call.args) > 1):
        return False
    asked = list(ast.walk(call.args[1]))
    pieces = [str(n.value) for n in asked if isinstance(n, ast.Constant)]
    repeats = any(isinstance(n, ast.Mult) for n in asked)
    return any("__" in piece or (repeats and piece == "_") for piece in pieces)


def _switches(nodes: Nodes, comments: tuple[Comment, ...]) -> list[str]:
    """Whatever would make mypy look away, in code, in quoted annotations and in comments."""
    returned = {id(n.returns) for n in nodes if isinstance(n, ast.FunctionDef)}
    telling = (node for node in nodes if isinstance(node, TELLING))
    found = [(node.lineno, _switch(node, returned)) for node in telling]
    for text, quoted in quoted_code(nodes):
        if not isinstance(quoted.body, ast.Name):  # a lone word may be any word
            inner = (n for n in ast.walk(quoted) if isinstance(n, ast.Name | ast.Attribute))
            found += [(text.lineno, _switch(node, returned)) for node in inner]
    found += [(n, c) for n, _, c in comments if SWITCH_COMMENT.match(c)]
    return [
        f"{say('line {line}', line=line)}: "
        + say("{name} switches the type checker off", name=name)
        for line, name in found
        if name
    ]


def _switch(node: ast.AST, returned: set[int]) -> str:
    """The name in this node that mypy takes for a switch, or nothing."""
    match node:
        case ast.ImportFrom(module="typing", names=[ast.alias(name="*")]):
            return "from typing import *"
        case ast.ImportFrom(names=names):
            told = SWITCHES | {a.name for a in names if a.asname} & NEVER
            return next((a.name for a in names if a.name in told), "")
        case ast.Name(id=name) if name in CONSTANTS:
            return name
        case ast.Attribute(attr=name) if name in SWITCHES:
            return name
        case ast.Attribute(value=ast.Name(id=name)) if f"{name}.{node.attr}" in GUARDS:
            return f"{name}.{node.attr}"
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in NEVER:
            return "" if id(node) in returned else name
        case ast.Call(func=ast.Name(id=name), args=[_, ast.Constant(value=str(asked)), *_]):
            return asked if name in REACHING and asked in SWITCHES else ""
    return ""


def _linear_factors(nodes: Nodes) -> list[str]:
    """nn.Linear calls whose size is the rank: an adapter matrix in disguise."""
    names = {"Linear"} | {
        alias.asname
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == "Linear" and alias.asname
    }
    found = []
    for node in nodes:
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
