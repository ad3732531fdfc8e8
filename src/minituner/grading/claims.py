"""What a contract's tests say when they fail: the cause and the page of each explain(), in order.

Read from the contract's source without running it, so the exam and the contract cannot come to say
different things about one claim. Leaves out: measured and expected, which each exam measures anew.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path


@cache
def claims(contract: Path) -> dict[str, tuple[tuple[str, str], ...]]:
    """Test name -> (cause, read) of each of its explain() calls."""
    tree = ast.parse(contract.read_text(encoding="utf-8"))
    pages = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {
        node.name: tuple(_explained(node, pages))
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def _explained(test: ast.FunctionDef, pages: Mapping[str, object]) -> list[tuple[str, str]]:
    calls = [n for n in ast.walk(test) if isinstance(n, ast.Call)]
    calls = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "explain"]
    found = []
    for call in sorted(calls, key=lambda n: n.lineno):
        said = {k.arg: k.value for k in call.keywords}
        cause, read = ast.literal_eval(said["cause"]), said["read"]
        page = pages[read.id] if isinstance(read, ast.Name) else ast.literal_eval(read)
        found.append((str(cause), str(page)))
    return found
