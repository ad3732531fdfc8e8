"""What people read, in their language: English in the code, Spanish beside it in words*.es.toml.

English sentences are the keys, so the code reads as it speaks. Leaves out: plurals, other
languages, and what a failure shows beside its sentence (shown.py). tests/upkeep holds the two
together: every sentence has its twin, with the same fields.
"""

from __future__ import annotations

import locale
import os
import platform
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Protocol

from minituner.shown import in_spanish

LANGUAGES = ("en", "es")
VARIABLE = "MINITUNER_LANG"


def language() -> str:
    """The reader's language: MINITUNER_LANG, else the locale's, else English."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        named = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
        wanted = next((value for value in named if value), locale.getlocale()[0] or "en")
    return "es" if wanted.lower().startswith(("es", "spanish")) else "en"


@cache
def catalog() -> dict[str, str]:
    """English sentence -> Spanish sentence: the house's and lab 00's, then a file a lab."""
    files = sorted(Path(__file__).parent.glob("words*.es.toml"))
    tables = [tomllib.loads(file.read_text(encoding="utf-8"))["say"] for file in files]
    return {pair["en"]: pair["es"] for table in tables for pair in table}


def say(sentence: str, **values: object) -> str:
    """The sentence in the reader's language, with its {fields} filled in."""
    spoken = catalog().get(sentence, sentence) if language() == "es" else sentence
    return spoken.format(**values) if values else spoken


def one_of(what: str, choices: Iterable[str], got: object) -> str:
    """One line about an option that takes one of a few words."""
    known = ", ".join(choices)
    return say("{what}: expected one of {all}, got {got}", what=what, all=known, got=got)


def needs_linux() -> str:
    """One line for whoever asks for the exam elsewhere."""
    return say(
        "the exam needs Linux, got {system}; minituner grade runs here", system=platform.system()
    )


def page(path: str) -> str:
    """The reader's face of a bilingual page: lab/x.md -> lab/x.es.md in Spanish."""
    return path.replace(".md", ".es.md") if language() == "es" else path


class Explain(Protocol):
    """explain() for one lab, whose page has the pitfalls."""

    def __call__(self, *, measured: object, expected: object, cause: str, read: str) -> str: ...


def explaining(lab_page: str) -> Explain:
    """What a contract calls explain: a failure in four lines.

    Args:
        lab_page: the lab's page in English; a pitfall ("P1") is read there.
    """

    def explain(*, measured: object, expected: object, cause: str, read: str) -> str:
        """What was measured, what was expected, why, and where to read.

        Args:
            measured: in code notation as far as that goes; its words, and those of `expected`, are
                phrases of shown*.es.toml.
            cause: the likely cause, one sentence, a key of the catalog.
            read: a pitfall of the lab page ("P1") or a page.
        """
        return failure(measured, expected, cause, read, lab_page)

    return explain


def failure(measured: object, expected: object, cause: str, read: str, lab_page: str) -> str:
    """The same from a cause that the contract says: the exam quotes it."""
    where = f"{lab_page} {read}" if read[:1] == "P" else read
    if language() == "es":
        measured, expected = in_spanish(measured), in_spanish(expected)
    lines = (
        (say("measured"), measured),
        (say("expected"), expected),
        (say("likely cause"), say(cause)),
        (say("read"), page(where)),
    )
    return "\n" + "\n".join(f"{label}: {value}" for label, value in lines)
