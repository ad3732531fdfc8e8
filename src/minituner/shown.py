"""What a failure shows as measured and expected, in Spanish: shown*.es.toml holds the phrases.

Contracts and checks put them together in English, values inside. Here a text is compared with the
phrases as a whole, and what stands in the fields goes over as it is. A text that fits none stays
English. Leaves out: causes and all other sentences (words.py).
"""

from __future__ import annotations

import re
import tomllib
from functools import cache, partial
from pathlib import Path
from typing import Any

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
FIELD = "{}"
SAID = " -> "  # between what was asked and what was said
DEPTH = 2  # of phrases within phrases; a submission may have a hand in what is shown
Parts = tuple[str, ...]  # of a phrase: what stands around its fields


@cache
def _entries() -> list[dict[str, Any]]:  # Any: text, or a mark
    files = sorted(Path(__file__).parent.glob("shown*.es.toml"))
    tables = [tomllib.loads(file.read_text(encoding="utf-8"))["shown"] for file in files]
    return [entry for table in tables for entry in table]


@cache
def phrases() -> dict[str, str]:
    """English -> Spanish, each field as {}, the same number in the same order."""
    return {entry["en"]: entry["es"] for entry in _entries()}


@cache
def messages() -> frozenset[str]:
    """The phrases whose fields are what the learner's code said."""
    return frozenset(entry["en"] for entry in _entries() if "said" in entry)


@cache
def _parts() -> tuple[tuple[Parts, Parts], ...]:
    """The phrases with fields, cut at them; the one with the most text of its own first."""
    pairs = [(en.split(FIELD), es.split(FIELD)) for en, es in phrases().items() if FIELD in en]
    pairs.sort(key=lambda pair: -sum(map(len, pair[0])))
    return tuple((tuple(en), tuple(es)) for en, es in pairs)


def in_spanish(value: object) -> object:
    """A measured or expected value as a Spanish reader should see it.

    A list's items and a dict's labels are phrases, too; what a dict says of a label may be the
    learner's own words and is no phrase, unless it has no field.
    """
    if isinstance(value, str):
        return _phrase(value)
    if isinstance(value, list):
        return [in_spanish(item) for item in value]
    if isinstance(value, dict):
        return {in_spanish(label): _whole(said) for label, said in value.items()}
    return value


def _whole(value: object) -> object:
    return phrases().get(value, value) if isinstance(value, str) else value


def _phrase(text: str, depth: int = DEPTH) -> str:
    """The text in Spanish; as it is, where no phrase fits."""
    asked, arrow, said = text.partition(SAID)
    if asked in phrases():
        return phrases()[asked] + arrow + said
    for en, es in _parts():
        values = between(text, en)
        if values is not None:
            depth *= FIELD.join(en) not in messages()
            rest = zip(values, es[1:], strict=True)
            return es[0] + "".join(_field(value, depth) + own for value, own in rest)
    return text


def between(text: str, parts: Parts) -> list[str] | None:
    """What stands between the parts, each field as short as can be; None where they do not fit."""
    first, *inner, last = parts
    at, end = len(first), len(text) - len(last)
    if at > end or not (text.startswith(first) and text.endswith(last)):
        return None
    values = []
    for part in inner:
        found = text.find(part, at, end)
        if found < 0:
            return None
        values.append(text[at:found])
        at = found + len(part)
    return [*values, text[at:end]]


def _field(value: str, depth: int) -> str:
    """A field, which may be a phrase again, or a list of quoted ones.

    What stands in quotes by itself is what the learner's code said, or a name.
    """
    if not depth or value.startswith(("'", '"')):
        return value
    if value.startswith(("[", "(", "{")):
        return QUOTED.sub(partial(_quoted, depth - 1), value)
    return _phrase(value, depth - 1)


def _quoted(depth: int, found: re.Match[str]) -> str:
    mark, inside = found[0][0], found[0][1:-1]
    return f"{mark}{_phrase(inside, depth)}{mark}"
