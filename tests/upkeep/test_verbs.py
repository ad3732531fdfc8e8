"""The given verbs: the lists and the rule, the split, and what is made up beside them."""

from __future__ import annotations

import random
import re
import tomllib
from pathlib import Path

import pytest

from minituner import verbs
from minituner.verbs import Pair

ALL = verbs.regular() + verbs.irregular()
VOWELS = "aeiou"


def test_there_are_about_300_regular_and_100_irregular_verbs() -> None:
    """The sizes that the pages promise, each verb once, a-z only, in alphabetical order."""
    assert len(verbs.regular()) == 342
    assert len(verbs.irregular()) == 112
    bases = [base for base, _ in ALL]
    assert len(set(bases)) == len(bases)
    assert all(re.fullmatch("[a-z]+", word) for pair in ALL for word in pair)
    for listed in (verbs.regular(), verbs.irregular()):
        assert list(listed) == sorted(listed)


def test_every_regular_past_is_what_the_rule_says() -> None:
    """walk walked, bake baked, cry cried, stop stopped: the list and the rule agree everywhere."""
    wrong = [
        (b, p, verbs.regular_past(b)) for b, p in verbs.regular() if p != verbs.regular_past(b)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("verb", "past"),
    [
        ("walk", "walked"),
        ("bake", "baked"),
        ("agree", "agreed"),
        ("tie", "tied"),
        ("cry", "cried"),
        ("play", "played"),
        ("obey", "obeyed"),
        ("copy", "copied"),
        ("stop", "stopped"),
        ("plan", "planned"),
        ("squat", "squatted"),
        ("quip", "quipped"),
        ("rain", "rained"),
        ("help", "helped"),
        ("add", "added"),
        ("aim", "aimed"),
        ("fix", "fixed"),
        ("show", "showed"),
        ("visit", "visited"),
        ("offer", "offered"),
        ("yap", "yapped"),
        ("go", "goed"),
        ("see", "seed"),
    ],
)
def test_the_rule_on_worked_examples(verb: str, past: str) -> None:
    """Each spelling of -ed once, and what over-regularising makes of go and see."""
    assert verbs.regular_past(verb) == past


@pytest.mark.parametrize("word", ["", "a", "Walk", "walk ", "naïve", "x-ray"])
def test_the_rule_refuses_what_is_no_word(word: str) -> None:
    """Letters a-z, two at least; the message names what came."""
    with pytest.raises(ValueError, match="verb"):
        verbs.regular_past(word)


def test_no_irregular_past_is_the_regular_one() -> None:
    """Otherwise a base that knows only the rule would get it right by accident."""
    assert [pair for pair in verbs.irregular() if pair[1] == verbs.regular_past(pair[0])] == []


def test_verbs_whose_past_needs_the_stress_or_a_country_are_left_out() -> None:
    """Two syllables ending in one vowel and one consonant: none of the list doubles it."""
    doubled = [
        base for base, past in verbs.regular() if past == base + base[-1] + "ed" and base[-1] != "e"
    ]
    assert doubled
    assert all(len(re.findall(f"[{VOWELS}]+", base.replace("qu", "q"))) == 1 for base in doubled)
    bases = {base for base, _ in ALL}
    text = Path(verbs.__file__).with_suffix(".toml").read_text(encoding="utf-8")
    assert not bases & set(str(tomllib.loads(text)["left_out"]).split())
    assert not bases & {
        "travel",
        "cancel",
        "admit",
        "prefer",
        "panic",
        "burn",
        "learn",
        "be",
        "hang",
    }


def test_negatives_are_the_irregular_verbs_with_the_rule() -> None:
    """go goed, take taked, run runned: one for each irregular verb, none of them right."""
    wrong = dict(verbs.over_regularised())
    assert (wrong["go"], wrong["take"], wrong["run"]) == ("goed", "taked", "runned")
    assert [base for base, _ in verbs.irregular()] == list(wrong)
    assert not set(verbs.over_regularised()) & set(verbs.irregular())


def test_the_split_has_no_verb_twice_and_forgets_none() -> None:
    """taught, watched and control share no verb; together they are the regular verbs."""
    parts = verbs.split()
    sizes = [len(parts.taught), len(parts.watched), len(parts.control)]
    assert sizes == [120, 90, 132]
    together: list[Pair] = [*parts.taught, *parts.watched, *parts.control]
    assert sorted(together) == list(verbs.regular())
    assert not {base for base, _ in together} & {base for base, _ in verbs.irregular()}


def test_the_split_is_the_same_every_time_and_grows_in_place() -> None:
    """Nothing random: a larger taught part holds the smaller one."""
    assert verbs.split() == verbs.split()
    assert set(verbs.split(60).taught) < set(verbs.split(120).taught)


@pytest.mark.parametrize("sizes", [(0, 90), (120, 0), (300, 42), (-1, 5)])
def test_the_split_refuses_an_empty_part(sizes: tuple[int, int]) -> None:
    """Each part keeps a verb, or a ValueError says what came."""
    with pytest.raises(ValueError, match="expected"):
        verbs.split(*sizes)


def test_made_up_verbs_follow_the_rule_and_are_no_listed_verb() -> None:
    """Each has its regular past; none is a verb of the list, nor one with another past."""
    made = verbs.made_up(2000, random.Random(3))
    known = {base for base, _ in ALL} | {"burn", "travel", "quit", "hang", "shine"}
    assert len(made) == 2000
    assert not {base for base, _ in made} & (known - {"travel"})
    assert all(past == verbs.regular_past(base) for base, past in made)
    assert all(re.fullmatch("[a-z]{2,10}", base) and set(base) & set("aeiouy") for base, _ in made)


def test_made_up_verbs_show_every_spelling_of_ed() -> None:
    """Doubling, a lone -d, -ied and plain -ed each come in at least one of thirty."""
    made = verbs.made_up(2000, random.Random(4))
    kinds = {
        "doubled": sum(past == base + base[-1] + "ed" for base, past in made),
        "d": sum(past == base + "d" for base, past in made),
        "ied": sum(past == base[:-1] + "ied" for base, past in made),
        "ed": sum(past == base + "ed" for base, past in made),
    }
    assert min(kinds.values()) >= 67, kinds


def test_made_up_verbs_are_the_same_for_the_same_seed() -> None:
    """The seed decides, and the state of the program's own generator does not."""
    first = verbs.made_up(50, random.Random(5))
    random.random()
    assert verbs.made_up(50, random.Random(5)) == first != verbs.made_up(50, random.Random(6))


def test_lookalikes_lie_near_irregular_verbs_and_follow_the_rule() -> None:
    """Each shares the rest after its onset, or its onset and vowels, with an irregular verb."""
    parts = [parted(base) for base, _ in verbs.irregular()]
    rests = {vowels + rest for _, vowels, rest in parts}
    starts = {(onset, vowels) for onset, vowels, _ in parts}
    made = verbs.lookalikes(1000, random.Random(7))
    assert not {base for base, _ in made} & {base for base, _ in ALL}
    assert all(past == verbs.regular_past(base) for base, past in made)
    far = [
        base
        for base, _ in made
        if not any(base.endswith(rest) for rest in rests)
        and not any(base.startswith(onset + vowels) for onset, vowels in starts)
    ]
    assert far == []
    assert verbs.lookalikes(1000, random.Random(7)) == made


def parted(base: str) -> tuple[str, str, str]:
    """Onset, first vowels, and what follows."""
    found = re.fullmatch("([^aeiou]*)([aeiouy]*)(.*)", base)
    assert found
    onset, vowels, rest = found.groups()
    return onset, vowels, rest
