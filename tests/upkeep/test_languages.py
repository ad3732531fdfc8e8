"""English and Spanish agree: the pages, what the code says, the registry and the mutants' table.

Every check has its own test here: planted faults that it must report. Leaves out: whether the
Spanish is good, which a reader judges.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import parity
import pytest
from sentences import (
    CATALOGS,
    ROOT,
    Entry,
    catalog,
    mistranslated,
    one_sided,
    orphans,
    paths,
    said,
    said_here,
    skeleton,
)


def none(found: list[str]) -> None:
    if found:  # the lines as they are, without a traceback's margin
        pytest.fail("\n".join(found), pytrace=False)


def test_every_page_has_its_twin() -> None:
    """Every page people read is there in both languages."""
    assert parity.pairs(), f"no page found under {ROOT}"
    none(parity.missing())


def test_twins_differ_in_words_only() -> None:
    """Twins have the same headings, code blocks, numbers and links."""
    whole = [(en, es) for en, es in parity.pairs() if en.is_file() and es.is_file()]
    none([line for en, es in whole for line in parity.differences(en, es)])


def test_no_translation_is_stale() -> None:
    """Every translation carries the hash of the English page as it is now."""
    whole = [es for en, es in parity.pairs() if en.is_file() and es.is_file()]
    none([fault for es in whole if (fault := parity.stale(es))])


def test_no_link_is_broken() -> None:
    """Every relative link leads to a file, and to a heading where it names one."""
    none([line for page in parity.pages() for line in parity.broken(page)])


def test_every_sentence_is_a_constant() -> None:
    """say(…) and explain(cause=…) get constants: the catalog can be checked against them."""
    none(said_here()[1])


def test_every_sentence_has_its_spanish() -> None:
    """What the code says has an entry in words*.es.toml."""
    missing = skeleton(said_here()[0], catalog())
    none([f"paste into {CATALOGS} and translate:\n{missing}"] if missing else [])


def test_every_entry_is_said_and_is_there_once() -> None:
    """words*.es.toml has no entry that nothing says, and none twice."""
    none(orphans(said_here()[0], catalog()))


def test_every_entry_keeps_fields_numbers_and_names() -> None:
    """The Spanish of a sentence has its {fields}, numbers and names, and is not English."""
    none(mistranslated(catalog()))


@pytest.mark.parametrize("path", paths("lab/*.toml", "tests/mutants/*.toml"), ids=parity.shown)
def test_every_table_speaks_both_languages(path: Path) -> None:
    """Titles, hints and pitfalls are there in both languages, with the same numbers and names."""
    none(list(one_sided(tomllib.loads(path.read_text(encoding="utf-8")), "")))


# --- the checks can fail --------------------------------------------------------------------------

ENGLISH = """# Title

## Two: α/r

36 864 is 0.124 % ([source](https://x.org/1)), see [two](#two-αr) and [back](b.md).

```python
r = 8
```

```console
score: 100
```
"""
SPANISH = """# Título

## Dos: α/r

El 0.124% son 36 864 ([fuente](https://x.org/1)), ve a [dos](#dos-αr) y [atrás](b.es.md).

```python
r = 8
```

```console
puntos: 100
```
"""


@pytest.fixture
def es(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """lab/a.es.md in a small repository where nothing is wrong."""
    monkeypatch.setattr(parity, "ROOT", tmp_path.resolve())
    lab = tmp_path.resolve() / "lab"
    lab.mkdir()
    for name, text in {"a.md": ENGLISH, "a.es.md": SPANISH, "b.md": "", "b.es.md": ""}.items():
        (lab / name).write_text(text, encoding="utf-8")
    assert parity.main(["--stamp"]) == 0
    return lab / "a.es.md"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_faithful_pair_passes(es: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other words, another order of numbers and other anchors are no difference."""
    capsys.readouterr()
    assert (parity.main([]), capsys.readouterr().out) == (0, "English and Spanish agree\n")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("36 864", "36 846", "numbers: only in English 36 864"),
        ("0.124%", "0.124", "numbers: only in Spanish 0.124"),
        ("## Dos: α/r\n", "", "heading 2: 'none', in English '## Two: α/r'"),
        ("## Dos", "### Dos", "heading 2: '### Dos: α/r', in English '## Two: α/r'"),
        ("r = 8", "r = 9", "code block 1: 'r = 9', in English 'r = 8'"),
        ("```python", "```", "code block 1: marked '', in English 'python'"),
        ("puntos: 100", "puntos: 10", "numbers in code block 2: only in English 100"),
        ("```python\nr = 8\n```\n", "", "1 code blocks, in English 2"),
        ("x.org/1", "x.org/2", "links: only in Spanish https://x.org/2"),
        ("b.es.md", "c.es.md", "link to c.es.md: no such file"),
        ("b.es.md", "b.md", "link to b.md: in English, and there is lab/b.es.md"),
        ("#dos-αr", "#dos", "link to #dos: no such heading"),
        ("<!-- source", "<!-- fuente", "expected a stamp on its first line"),
    ],
)
def test_a_planted_difference_is_told(
    es: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, told: str
) -> None:
    """One fault in the Spanish page, and its line is printed with exit 1."""
    edit(es, old, new)
    assert parity.main([]) == 1
    assert told in capsys.readouterr().out


def test_a_missing_twin_is_told(es: Path) -> None:
    """A page without its other language is named."""
    es.unlink()
    assert parity.missing() == ["lab/a.es.md: missing; it is the twin of lab/a.md"]


def test_a_stale_stamp_is_told_and_mended(es: Path) -> None:
    """An edit of the English makes the Spanish stale; --stamp rewrites its first line only."""
    before = es.read_text(encoding="utf-8")
    edit(parity.source(es), "Title", "Heading")
    old = "translated from an older lab/a.md; update it, then run make stamp"
    assert parity.stale(es) == f"lab/a.es.md: {old}"
    parity.main(["--stamp"])
    after = es.read_text(encoding="utf-8")
    assert parity.stale(es) is None
    assert after != before
    assert after.partition("\n")[2] == before.partition("\n")[2]


def test_a_sentence_that_is_not_constant_is_told(tmp_path: Path) -> None:
    """Joined literals and words.say count; a variable is a fault."""
    file = tmp_path / "x.py"
    file.write_text('say("a " "b")\nwords.say("c")\nexplain(cause="d")\nother("e")\nsay(f)\n')
    where, faults = said([file])
    assert list(where) == ["a b", "c", "d"]
    assert faults == [f"{file}:5: expected a constant, got f"]


def test_missing_sentences_are_printed_as_toml() -> None:
    """All that is missing is told at once, and the text can be pasted as it is."""
    where = {"known": "x.py:1", 'say "{n}"': "x.py:2", "α → β": "x.py:3"}
    pasted = tomllib.loads(skeleton(where, [{"en": "known"}]))
    assert pasted["say"] == [{"en": 'say "{n}"', "es": ""}, {"en": "α → β", "es": ""}]
    assert skeleton(where, [{"en": en} for en in where]) == ""


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"en": "{n} left", "es": "quedan"}, "{fields}: ['{n}'] / []"),
        ({"en": "8 left", "es": "quedan 9"}, "numbers: ['8'] / ['9']"),
        ({"en": "use copy_", "es": "usa copia_"}, "names: ['copy_'] / ['copia_']"),
        ({"en": "left", "es": ""}, "empty"),
        ({"en": "left", "es": "left"}, "same = false, but equal is True"),
        ({"en": "left", "es": "quedan", "same": True}, "same = true, but equal is False"),
    ],
)
def test_a_wrong_entry_is_told(entry: Entry, told: str) -> None:
    """A lost field, number or name, an empty or an English translation is named."""
    assert [fault for fault in mistranslated([entry]) if fault.startswith(told)]
    assert mistranslated([{"en": "{n} of 8 in lora_A", "es": "{n} de 8 en lora_A"}]) == []


def test_an_orphan_and_a_double_are_told() -> None:
    """An entry that nothing says, or that is there twice, is named."""
    entries = [{"en": "a"}, {"en": "a"}, {"en": "b"}]
    assert orphans({"a": "x.py:1"}, entries) == ["nothing says 'b' any more", "2 entries for 'a'"]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"title": {"en": "one"}}, ".title: empty: 'one' / ''"),
        ({"hints": {"en": ["a", "b"], "es": ["a"]}}, ".hints: 2 in English, 1 in Spanish"),
        ({"task": [{"title": {"en": "r 8", "es": "r 9"}}]}, ".task[0].title: numbers: ['8']"),
    ],
)
def test_a_one_sided_table_is_told(table: Entry, told: str) -> None:
    """A missing side, a missing hint or a changed number is named."""
    assert next(one_sided(table, "")).startswith(told)
