"""Finds what the code says and what the catalog answers: every say(…) and its Spanish.

Leaves out: pages (parity.py) and whether the Spanish is good.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import parity

ROOT = Path(__file__).resolve().parents[2]
CATALOGS = "src/minituner/words*.es.toml"  # the house's and lab 00's, then a file a lab
CODE = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+|\w*_\w*")  # nn.Linear, copy_, lora_A: never translated
CALLS = {"say": "sentence", "explain": "cause"}  # words.py's functions, the argument they look up
SPEAKERS = ("src/minituner/**/*.py", "conftest.py", "tests/test_*.py", "experiments/*/*.py")
Entry = dict[str, Any]  # Any: a TOML table that is still to be checked


def paths(*patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]


def looked_up(call: ast.Call) -> ast.expr | None:
    """The argument of say(…) or explain(…) that is a key of the catalog; None for other calls."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="words"), attr=name):
            named = {word.arg: word.value for word in call.keywords}
            first = call.args[0] if call.args else call
            return named.get(CALLS[name], first) if name in CALLS else None
    return None


def said(files: list[Path]) -> tuple[dict[str, str], list[str]]:
    """Each constant that the files look up with its first place, and what is not constant."""
    where: dict[str, str] = {}
    faults: list[str] = []
    for path in files:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        calls = (node for node in nodes if isinstance(node, ast.Call))
        for call in sorted(calls, key=lambda call: call.lineno):
            key, place = looked_up(call), f"{parity.shown(path)}:{call.lineno}"
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                where.setdefault(key.value, place)
            elif key is not None and not (path.name == "words.py" and isinstance(key, ast.Name)):
                faults.append(f"{place}: expected a constant, got {ast.unparse(key)}")
    return where, faults


def said_here() -> tuple[dict[str, str], list[str]]:
    """What this repository says; the ★ files are the learner's and say nothing."""
    stars = {ROOT / "src" / "minituner" / path.name for path in paths("solutions/*.py")}
    return said([path for path in paths(*SPEAKERS) if path not in stars])


def catalog() -> list[Entry]:
    tables = [tomllib.loads(file.read_text(encoding="utf-8"))["say"] for file in paths(CATALOGS)]
    return [entry for table in tables for entry in table]


def skeleton(where: dict[str, str], entries: list[Entry]) -> str:
    """The entries that the catalog lacks, as TOML to paste and translate; empty if it has all."""
    known = {entry["en"] for entry in entries}
    return "".join(
        f'\n# {place}\n[[say]]\nen = {json.dumps(en, ensure_ascii=False)}\nes = ""\n'
        for en, place in where.items()
        if en not in known
    )


def orphans(where: dict[str, str], entries: list[Entry]) -> list[str]:
    """Entries that nothing says any more, and entries that are there twice."""
    count = Counter(entry["en"] for entry in entries)
    unused = [f"nothing says {en!r} any more" for en in count if en not in where]
    return unused + [f"{n} entries for {en!r}" for en, n in count.items() if n > 1]


def code_words(text: str) -> set[str]:
    """The names in a text; a plural s and a page's language do not count."""
    return {word.removesuffix("s") for word in CODE.findall(text.replace(".es.md", ".md"))}


def unlike(en: str, es: str) -> list[str]:
    """How a translation differs from its English besides words."""
    if not (en.strip() and es.strip()):
        return [f"empty: {en!r} / {es!r}"]
    measured = {
        "{fields}": [sorted(re.findall(r"\{[^{}]*\}", text)) for text in (en, es)],
        "numbers": [sorted(parity.numbers(text).elements()) for text in (en, es)],
        "names": [sorted(code_words(text)) for text in (en, es)],
    }
    return [f"{what}: {a} / {b} in {es!r}" for what, (a, b) in measured.items() if a != b]


def mistranslated(entries: list[Entry]) -> list[str]:
    """Entries whose Spanish lost a field, a number or a name, or is still English."""
    found = [fault for entry in entries for fault in unlike(entry["en"], entry.get("es", ""))]
    for entry in entries:
        same, equal = entry.get("same", False), entry["en"] == entry.get("es")
        if same is not equal:
            found.append(f"same = {str(same).lower()}, but equal is {equal}: {entry['en']!r}")
    return found


def one_sided(value: object, where: str) -> Iterator[str]:
    """Faults in each {en, es} of a TOML document: a side missing, empty or different."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from one_sided(item, f"{where}[{i}]")
    elif isinstance(value, dict) and value.keys() & {"en", "es"}:
        sides = [value.get(language, "") for language in ("en", "es")]
        en, es = ([side] if isinstance(side, str) else side for side in sides)
        if not len(en) == len(es) > 0:
            yield f"{where}: {len(en)} in English, {len(es)} in Spanish"
        yield from (f"{where}: {f}" for pair in zip(en, es, strict=False) for f in unlike(*pair))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from one_sided(item, f"{where}.{key}")


# --- the claims -----------------------------------------------------------------------------------
