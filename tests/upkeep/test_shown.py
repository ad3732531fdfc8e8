"""What a Spanish reader sees after «medido:» and «esperado:» is Spanish, and signs stay English.

Every check of the catalog has its planted fault here. Leaves out: the sentences beside them
(test_languages.py), and whether the Spanish is good.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn
from unittest.mock import Mock

import phrases
import pytest
from phrases import FIELD, catalog, literals, misfits, orphans, prose, shown_here, skeleton
from sentences import Entry, mistranslated, paths

from minituner import shown, words
from minituner.grading.asked import put
from minituner.grading.checks.asking import Asking, Wrong
from minituner.grading.diagnose import LONGEST
from minituner.grading.registry import lab
from minituner.grading.report import Result
from minituner.shown import between, in_spanish

TRUTHS = "test_counts_truth_"  # show quantities and units by the names that published.py gives them
SAID = re.compile(r"-> (= )?['\"].*", re.DOTALL)
QUOTE = re.compile(r"['\"]")
SAMPLES = ("0.5", "[1, 2]", "None", "(True, 'lora_A')", "blocks.0.q_proj", "torch.float64")


def none(found: list[str]) -> None:
    if found:  # the lines as they are, without a traceback's margin
        pytest.fail("\n".join(found), pytrace=False)


def test_every_phrase_has_its_spanish() -> None:
    """What contracts and checks show has an entry in shown*.es.toml."""
    missing = skeleton(shown_here(), catalog())
    none([f"paste into {phrases.CATALOGS} and translate:\n{missing}"] if missing else [])


def test_every_entry_is_shown_and_is_there_once() -> None:
    """shown*.es.toml has no entry that nothing shows, and none twice."""
    none(orphans(shown_here(), catalog()))


def test_every_entry_keeps_fields_numbers_and_names() -> None:
    """The Spanish of a phrase has as many fields, its numbers and names, and is not English."""
    none(misfits(catalog()) + mistranslated(catalog()))


def swallowed(entries: list[Entry]) -> Iterator[str]:
    """Phrases that, filled with values, come out as another's Spanish."""
    for entry in entries:
        count = entry["en"].count(FIELD)
        for first in range(len(SAMPLES) if count else 1):
            values = [SAMPLES[(first + i) % len(SAMPLES)] for i in range(count)]
            en, es = (entry[side].replace(FIELD, "{!s}").format(*values) for side in ("en", "es"))
            if in_spanish(en) != es:
                yield f"{en!r}: {in_spanish(en)!r}, expected {es!r}"


def test_no_phrase_is_taken_for_another() -> None:
    """Each phrase with values in its fields comes out as its own Spanish."""
    none(list(swallowed(catalog())))


def english(texts: Iterable[str], entries: list[Entry]) -> Iterator[tuple[str, list[str]]]:
    """The texts in which a Spanish reader still meets English, and its words.

    A field or a quoted item of a single word is a name; what the learner said does not count.
    """
    spoken = {entry["es"] for entry in entries}
    spanish = [re.findall(r"[^\W\d_]+", entry["es"]) for entry in entries]
    english = [prose(entry["en"]) for entry in entries]
    known = {w for en, es in zip(english, spanish, strict=True) for w in en if w not in es}
    forms = [tuple(es.split(FIELD)) for es in sorted(spoken, key=len, reverse=True) if FIELD in es]
    learners = {tuple(entry["es"].split(FIELD)) for entry in entries if "said" in entry}
    for text in texts:
        told = SAID.sub("-> None", str(in_spanish(text)))
        fits = next((form for form in forms if between(told, form) is not None), None)
        fields = [told] if fits is None else between(told, fits) or []
        fields = [] if told in spoken or fits in learners else fields
        items = {item.strip() for field in fields for item in QUOTE.split(field)} - spoken
        left = [word for item in items if " " in item for word in prose(item) if word in known]
        if left:
            yield text, left


def signs() -> Iterator[tuple[str, str]]:
    """Each measured text that a planted bug shows, with its check."""
    for path in paths("tests/mutants/*.signs.json"):
        for planted in json.loads(path.read_text(encoding="utf-8"))["signs"].values():
            for check, sign in planted.items():
                whole = sign if len(sign) < LONGEST else sign[: sign.rfind(", ")]
                claim, _, text = whole.replace("~", "").partition(": ")
                if claim.isdigit():
                    yield check, text


def test_no_planted_bug_shows_english_in_spanish() -> None:
    """What every planted bug shows in the exam has no English word left."""
    entries = catalog()
    told = {text: check for check, text in signs() if not check.startswith(TRUTHS)}
    assert len(told) > 1000
    left = english(told, entries)
    none([f"{told[text]}: {found} in {in_spanish(text)!r}" for text, found in left])


# --- what becomes of a failure --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("loss = 0.5", "pérdida = 0.5"),
        (
            "trained, by name = ['missing', 'no_name']",
            "se entrena, por nombre = ['ausente', 'no_name']",
        ),
        ("a gradient of NaN -> 'a copy'", "un gradiente de NaN -> 'a copy'"),
        (
            {"one axis": "no error", "rank: r; 0": "a copy of r"},
            "{'un eje': 'sin error', 'rango: r; 0': 'a copy of r'}",
        ),
        ([1.0, "no error"], "[1.0, 'sin error']"),
        ((True, "no error"), "(True, 'no error')"),
        ("said by nobody", "said by nobody"),
        ("of another shape -> None", "de otra forma -> None"),
        ("refusals = [None, 'no A']", "rechazos = [None, 'no A']"),
        ("(taken, changed) = (['no A'], [])", "(aceptado, cambiado) = (['sin A'], [])"),
        ("", ""),
    ],
)
def test_values_and_the_learners_words_go_over_as_they_are(value: object, told: str) -> None:
    """Phrases are Spanish afterwards, values, names and messages are what they were."""
    assert str(in_spanish(value)) == told


def test_a_long_text_is_no_harm() -> None:
    """However a submission nests what looks like phrases, the text is one line that is shown."""
    for text in ("a = -> " * 5000, "x = [" + "'a -> b = c', " * 2000 + "]", "[" * 5000 + "'"):
        assert len(str(in_spanish(text))) == len(text)


def test_english_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In English a failure is as it stands, and no catalog of phrases is read."""

    def read() -> NoReturn:
        pytest.fail("the catalog of phrases was read")

    monkeypatch.setenv(words.VARIABLE, "en")
    monkeypatch.setattr(shown, "phrases", read)
    assert "measured: loss = 0.5\n" in words.failure(
        "loss = 0.5", "0.25", "no cause", "P1", "lab/x.md"
    )


def test_a_sign_is_english_in_any_language(monkeypatch: pytest.MonkeyPatch) -> None:
    """Diagnosis compares signs with those of the planted bugs: the message alone is translated."""
    name = "test_lora_init_identity_wrap_draws_each_A_anew"

    def check(ask: Asking) -> None:
        raise Wrong("different A = 4", "finite floats", 0)

    said = {}
    for language in words.LANGUAGES:
        monkeypatch.setenv(words.VARIABLE, language)
        result = put(lab("00"), name, check, Mock)
        assert isinstance(result, Result) and result.sign == "0: different A = 4"
        said[language] = result.message.splitlines()[1:3]
    assert said == {
        "en": ["measured: different A = 4", "expected: finite floats"],
        "es": ["medido: A distintas = 4", "esperado: float finitos"],
    }


# --- the checks can fail --------------------------------------------------------------------------

SOURCE = '''"""Docs are no phrase."""
pytestmark = pytest.mark.filterwarnings("ignore:some words")


@pytest.mark.task("not a phrase")
def test_x():
    """Nor is this."""
    ask.see("the loss", got, want)
    ask.near(f"{name} - its value", got, want, 0.0)
    ask.hold(right, f"losses = {[kind for kind in 'a b']}"[:120], "floats")
    things = [("a state", call, ("r", "0")), ("r=0", call, ())]
    raise Wrong(f"shapes in {name}", "(r, in), (out, r)", 0)
    raise ValueError("what is raised")
    assert got, explain(measured=f"rank {r}, max|layer(x)|", cause="no", read="P1 x")
'''
SEEN = ["the loss = {}", "max|{} - its value| = {}", "losses = {}", "floats", "a state"]
SEEN += ["shapes in {}", "rank {}, max|layer(x)|"]


def test_phrases_are_found_where_they_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A literal of several words anywhere, one word where a call shows it, in the form it has."""
    monkeypatch.setattr("parity.ROOT", tmp_path.resolve())
    path = tmp_path.resolve() / "test_x.py"
    path.write_text(SOURCE, encoding="utf-8")
    assert [phrase.keys[0] for phrase in literals(path) if phrase.is_prose] == SEEN


def test_planted_faults_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin taken out, one too many, one twice, one without a field, one that takes another's."""
    here, entries = shown_here(), catalog()
    loss = next(entry for entry in entries if entry["en"] == "loss = {}")
    without = [entry for entry in entries if entry is not loss]
    assert 'en = "loss = {}"' in skeleton(here, without) and not skeleton(here, entries)
    extra = {"en": "nobody shows {}", "es": "nadie muestra {}"}
    assert orphans(here, [*entries, extra, loss]) == [
        "nothing shows 'nobody shows {}' any more",
        "2 entries for 'loss = {}'",
    ]
    assert misfits([{"en": "loss = {}", "es": "pérdida"}, {"en": "a {}{}", "es": "{} un {}"}]) == [
        "fields of 'loss = {}' / 'pérdida'",
        "fields of 'a {}{}' / '{} un {}'",
    ]
    assert mistranslated([{"en": "loss = {}", "es": "pérdida"}])
    assert not list(swallowed(entries))
    greedy = {"en": "loss = [{}, {}]", "es": "las pérdidas [{}, {}]"}
    both = {"loss = {}": "pérdida = {}", greedy["en"]: greedy["es"]}
    monkeypatch.setattr(shown, "phrases", lambda: both)
    monkeypatch.setattr(shown, "_parts", shown._parts.__wrapped__)  # without its cache
    assert list(swallowed([greedy, loss])) == [
        "'loss = [1, 2]': 'las pérdidas [1, 2]', expected 'pérdida = [1, 2]'"
    ]


def test_english_left_in_a_sign_is_told() -> None:
    """Words of a text without a twin are told, and of a list's item; names and messages are not."""
    planted = {
        "loss of 3 equal logits = 5": [],
        "loss of 3 equal rows = 5": ["loss", "of", "equal", "rows"],
        "not so = ['kept', 'last of all']": ["last", "of", "all"],
        "a gradient of NaN -> 'the loss is not finite'": [],
        "not so = ['step, since']": [],
    }
    assert dict(english(planted, catalog())) == {
        text: left for text, left in planted.items() if left
    }
