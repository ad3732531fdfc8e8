"""The English that contracts and checks show as measured and expected, read from their source.

Leaves out: what is put together while they run; test_shown.py looks for that among the signs of
the planted bugs.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import parity
from sentences import CODE, Entry, paths

CATALOGS = "src/minituner/shown*.es.toml"  # what any check has and lab 00's, then a file a lab
SHOWING = ("tests/test_*.py", "src/minituner/grading/checks/*.py")
FIELD = "{}"
# The forms in which a literal is shown, and which argument of a call is shown in which.
WHOLE, EQUAL, NEAR, SAID = "{}", "{} = {{}}", "max|{}| = {{}}", "{} -> {{}}"
FORMS = (WHOLE, EQUAL, NEAR, SAID)
CALLS = {
    "see": ((0, EQUAL),),
    "near": ((0, NEAR),),
    "refuses": ((0, SAID),),
    "hold": ((1, WHOLE), (2, WHOLE)),
    "Wrong": ((0, WHOLE), (1, WHOLE)),
    "equal": ((1, EQUAL),),
    "close": ((1, EQUAL),),
    "wrong": ((1, EQUAL),),
}
SHOWN = {"measured", "expected"}  # of explain(…); cause and read are words.py's
# What is quoted; calls and keywords; fc1; the sizes (out, in); for i, j in.
NOTATION = re.compile(r"'[^']*'|\w+(?=[=(])|\w*\d\w*|\b(?:in|out)(?=[,)])|\bfor \w+(?:, \w+)* in\b")
WORD = re.compile(r"(?<![^\W\d_]|[√/])[a-z]{2,}(?![^\W\d_]|/)")
# What code and papers call a thing in either language, and words that are the same in both.
SAME = re.compile(
    "activations|adam|alpha|base|best|config|delta|device|dict|dropout|dtypes?|eval|evaluate|float"
    "|grad|inf|kept|label|layer|linears|logits|lora|max|model|optimizer|qkvo|qv|scaling|sgd|share"
    "|spectrum|std|total"
)
# Quantities and units as published.py names them.
QUANTITIES = {"double quantisation", "stored [{}]", "quotient [%]", "entries [million]"}


@dataclass(frozen=True)
class Phrase:
    """A literal with {} for each field, and the form it is shown in, where its place says so."""

    text: str
    form: str | None
    place: str

    @property
    def keys(self) -> list[str]:
        """What the catalog may hold for it: with fields in its form, without also by itself."""
        forms = FORMS if self.form is None else (self.form,)
        alone = [] if FIELD in self.text else [self.text]
        return [form.format(self.text) for form in forms] + alone

    @property
    def is_prose(self) -> bool:
        """Whether it needs a twin: several words, or one that a call shows."""
        told = self.form is not None or " " in self.text
        return told and bool(prose(self.text)) and self.text not in QUANTITIES


def prose(text: str) -> list[str]:
    """The words of a template that are neither code nor the same in both languages."""
    bare = NOTATION.sub(" ", CODE.sub(" ", text.replace(FIELD, " ")))
    return [word for word in WORD.findall(bare) if not SAME.fullmatch(word)]


def template(node: ast.AST) -> str | None:
    """A literal's text with {} for each field; None for what is no literal text."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(template(part) or FIELD for part in parts)
        case ast.Subscript(value=ast.JoinedStr() as cut):
            return template(cut)
        case ast.Call(func=ast.Attribute(value=ast.Constant() as filled, attr="format")):
            return template(filled)
    return None


def literals(path: Path) -> list[Phrase]:
    """Every literal of a file but docstrings, causes, pages, marks and what is raised or said."""
    found: list[Phrase] = []

    def visit(node: ast.AST, form: str | None) -> None:
        text = template(node)
        if text is not None and isinstance(node, ast.expr):
            found.append(Phrase(text, form, f"{parity.shown(path)}:{node.lineno}"))
        for child, its_form in _inside(node):
            visit(child, its_form)

    visit(ast.parse(path.read_text(encoding="utf-8")), None)
    return found


def _inside(node: ast.AST) -> Iterator[tuple[ast.AST, str | None]]:
    """What stands in a node that somebody may be shown, each with its form."""
    match node:
        case ast.Raise(exc=ast.Call(func=ast.Name(id="Wrong")) as told):
            yield told, None
        case ast.Raise() | ast.Call(func=ast.Name(id="say")):
            return
        case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="mark"))):
            return
        case ast.Call(func=ast.Attribute(value=ast.Constant(), attr="format")):
            yield from ((argument, None) for argument in node.args)
        case ast.Module() | ast.ClassDef() | ast.FunctionDef():
            documented = ast.get_docstring(node) is not None
            yield from ((child, None) for child in node.body[documented:])
        case ast.JoinedStr(values=parts) | ast.Subscript(value=ast.JoinedStr(values=parts)):
            # Its constants are part of its own text.
            yield from ((part, None) for part in parts if isinstance(part, ast.FormattedValue))
        case ast.Call(func=ast.Name(id="explain")):
            yield from ((word.value, WHOLE) for word in node.keywords if word.arg in SHOWN)
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)):
            forms = dict(CALLS.get(called, ()))
            yield node.func, None
            yield from ((argument, forms.get(at)) for at, argument in enumerate(node.args))
            yield from ((word.value, None) for word in node.keywords)
        case _:
            yield from ((child, None) for child in ast.iter_child_nodes(node))


def shown_here() -> list[Phrase]:
    """Every literal of this repository's contracts and checks."""
    return [phrase for path in paths(*SHOWING) for phrase in literals(path)]


def catalog() -> list[Entry]:
    tables = [tomllib.loads(file.read_text(encoding="utf-8"))["shown"] for file in paths(CATALOGS)]
    return [entry for table in tables for entry in table]


def skeleton(shown: list[Phrase], entries: list[Entry]) -> str:
    """The entries that the catalog lacks, as TOML to paste and translate; empty if it has all."""
    known = {entry["en"] for entry in entries}
    lacking: dict[str, str] = {}
    for phrase in shown:
        if phrase.is_prose and not known & set(phrase.keys):
            lacking.setdefault(phrase.keys[0], phrase.place)
    return "".join(
        f'\n# {place}\n[[shown]]\nen = {json.dumps(en, ensure_ascii=False)}\nes = ""\n'
        for en, place in lacking.items()
    )


def orphans(shown: list[Phrase], entries: list[Entry]) -> list[str]:
    """Entries that nothing shows any more, and entries that are there twice."""
    alive = {key for phrase in shown for key in (phrase.text, *phrase.keys)}
    count = Counter(entry["en"] for entry in entries)
    unused = [f"nothing shows {en!r} any more" for en in count if en not in alive]
    return unused + [f"{n} entries for {en!r}" for en, n in count.items() if n > 1]


def misfits(entries: list[Entry]) -> list[str]:
    """Entries whose fields stand side by side, or of which the Spanish has another number."""
    return [
        f"fields of {entry['en']!r} / {entry['es']!r}"
        for entry in entries
        if entry["en"].count(FIELD) != entry["es"].count(FIELD) or FIELD * 2 in entry["en"]
    ]
