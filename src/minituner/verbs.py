"""English verbs for the labs: base form and past tense, character by character.

Source: verbs.toml, written for this project; the spelling rule is school grammar's. The story they
are for, walked walked and then "goed": Rumelhart & McClelland 1986; Marcus et al. 1992. Leaves out:
participles, "be", verbs with two pasts, and what the stress decides (admitted, visited).
"""

from __future__ import annotations

import random
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

Pair = tuple[str, str]  # base form, past tense
LONGEST = 10  # letters of the longest base form, listed or made up

# One syllable that ends in one vowel and one consonant doubles it: stop stopped, but not fix, show.
DOUBLES = re.compile(r"(?:[bcdfghjklmnprstvwxyz]*|s?qu)[aeiou][bdfgklmnprstvz]")


def regular_past(verb: str) -> str:
    """What the regular rule makes of a verb: walk walked, bake baked, cry cried, stop stopped.

    Raises:
        ValueError: verb is no lower-case word.
    """
    if not re.fullmatch("[a-z]{2,}", verb):
        raise ValueError(f"verb: expected two or more letters a-z, got {verb!r}")
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    if DOUBLES.fullmatch(verb):
        return verb + verb[-1] + "ed"
    return verb + "ed"


@cache
def _words(key: str) -> tuple[str, ...]:
    """One list of verbs.toml, word by word."""
    text = Path(__file__).with_name("verbs.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    return tuple(str(data[key] if key in data else data["parts"][key]).split())


def _pairs(key: str) -> tuple[Pair, ...]:
    words = _words(key)
    return tuple(zip(words[::2], words[1::2], strict=True))


def regular() -> tuple[Pair, ...]:
    """The regular verbs in alphabetical order."""
    return _pairs("regular")


def irregular() -> tuple[Pair, ...]:
    """The irregular verbs in alphabetical order."""
    return _pairs("irregular")


def over_regularised() -> tuple[Pair, ...]:
    """The irregular verbs with the past that the rule alone would give: ("go", "goed")."""
    return tuple((base, regular_past(base)) for base, _ in irregular())


@dataclass(frozen=True)
class Split:
    """The regular verbs in three parts without a verb in common, each in alphabetical order."""

    taught: tuple[Pair, ...]  # the base sees them, and rehearsal may show them again
    watched: tuple[Pair, ...]  # never trained on; early stopping looks at them
    control: tuple[Pair, ...]  # never trained on, never looked at until the end


def split(taught: int = 120, watched: int = 90) -> Split:
    """Part the regular verbs by a hash of the word, so the same verb always falls in the same part.

    Raises:
        ValueError: a part would be empty.
    """
    if taught < 1 or watched < 1 or taught + watched >= len(regular()):
        raise ValueError(
            f"taught, watched: expected at least 1 each and under {len(regular())} together, "
            f"got {taught} and {watched}"
        )
    order = sorted(regular(), key=lambda pair: sha256(pair[0].encode()).hexdigest())
    parts = order[:taught], order[taught : taught + watched], order[taught + watched :]
    return Split(*(tuple(sorted(part)) for part in parts))


@cache
def _taken() -> frozenset[str]:
    """Real verbs that are never made up: all that are listed, and those with another past."""
    return frozenset(base for base, _ in regular() + irregular()) | set(_words("left_out"))


def made_up(count: int, rng: random.Random) -> list[Pair]:
    """Pronounceable verbs that nobody uses, each with its regular past: ("splig", "spligged").

    No listed verb is among them, nor a real one whose past would be another. One may come twice,
    and some may be real words by chance.
    """
    taken = _taken()
    found: list[Pair] = []
    while len(found) < count:
        verb = _invent(rng)
        if 2 <= len(verb) <= LONGEST and verb not in taken:
            found.append((verb, regular_past(verb)))
    return found


def lookalikes(count: int, rng: random.Random) -> list[Pair]:
    """Made-up verbs one sound away from an irregular one, each with its regular past.

    ("ging", "ginged") from sing, ("blink", "blinked") from think. As in made_up, no listed verb is
    among them, one may come twice, and some are real words by chance.
    """
    taken = _taken()
    found: list[Pair] = []
    while len(found) < count:
        verb = _disguise(rng.choice(irregular())[0], rng)
        if 2 <= len(verb) <= LONGEST and verb not in taken:
            found.append((verb, regular_past(verb)))
    return found


def _disguise(verb: str, rng: random.Random) -> str:
    """The verb with another onset, or with another end of its last syllable."""
    after = verb.lstrip("bcdfghjklmnpqrstvwxyz")
    rest = after.lstrip("aeiouy")
    onset, vowels = verb.removesuffix(after), after.removesuffix(rest)
    if rng.random() < 0.6:
        return rng.choice(_words("onset")) + vowels + rest
    ends = _words("before_e") if rest.endswith("e") else _words("single") + _words("cluster")
    return onset + vowels + rng.choice(ends) + ("e" if rest.endswith("e") else "")


def _invent(rng: random.Random) -> str:
    """One to three syllables; how often each kind comes is about as in the real list."""

    def pick(kind: str) -> str:
        return rng.choice(_words(kind))

    onset = pick("onset") if rng.random() < 0.93 else ""
    tails = {
        "stop": pick("vowel") + pick("single"),
        "rain": pick("vowels") + pick("after_vowels"),
        "help": pick("vowel") + pick("cluster"),
        "bake": pick("vowel") + pick("before_e") + "e",
        "please": pick("long_e"),
        "agree": pick("open_e"),
        "cry": "y",
        "play": pick("open"),
        "go": "o",
    }
    (kind,) = rng.choices(list(tails), weights=(20, 15, 22, 18, 6, 3, 6, 7, 3))
    if rng.random() < 0.6:
        return onset + tails[kind]
    first = (pick("onset") if rng.random() < 0.5 else "") + pick("vowel") + pick("middle")
    if rng.random() < 0.3:
        first += pick("vowel") + pick("middle")
    return first + (pick("weak") if rng.random() < 0.5 else tails[kind])
