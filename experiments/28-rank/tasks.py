"""Two things to teach the base of lab 02: a hundred exceptions, or one new rule.

    exceptions   go>went, sing>sang: each by heart; a quarter of every batch rehearses regular verbs
    rule         walk>walking, bake>baking, stop>stopping: judged on verbs that were never shown

Source: verbs.py and lab 02's base. Leaves out: early stopping; every run takes the same steps.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from minituner import verbs
from minituner.corpora import LETTERS, Ids, verb_ids

INVENTED, SEED = 1500, 28  # made-up verbs, always the same
STRESSED = ("begin", "forget")  # beginning: the stress decides, which is not in the spelling
PAD = LETTERS.pad_id


@dataclass(frozen=True)
class Task:
    """What is shown, and what is asked afterwards; accuracy is exact match of the whole word."""

    new: list[Ids]
    old: list[Ids]  # rehearsed
    share: float  # of each batch that is rehearsal
    asked: list[Ids]  # loss and accuracy are those on this
    control: list[Ids]  # regular pasts that were never shown to any model

    def shortened(self, pairs: int = 8) -> Task:
        """The same with a few pairs of each kind."""
        kept = {name: getattr(self, name)[:pairs] for name in ("new", "old", "asked", "control")}
        return replace(self, **kept)


def ing(verb: str) -> str:
    """walk walking, bake baking, stop stopping, tie tying, see seeing: as grammar books have it."""
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if re.search("[^eoy]e$", verb):
        return verb[:-1] + "ing"
    past = verbs.regular_past(verb)
    return (past[:-2] if past == f"{verb}{verb[-1]}ed" else verb) + "ing"


def _ing(pairs: Iterable[verbs.Pair]) -> list[Ids]:
    return verb_ids((base, ing(base)) for base, _ in pairs if base not in STRESSED)


def tasks() -> dict[str, Task]:
    """Both tasks by name; the same for everybody."""
    parts, irregular = verbs.split(), verbs.irregular()
    invented = verbs.made_up(INVENTED, random.Random(SEED))
    old, control = verb_ids(parts.taught) + verb_ids(invented), verb_ids(parts.control)
    exceptions = Task(verb_ids(irregular), old, 0.25, verb_ids(irregular), control)
    unseen = parts.watched + parts.control + irregular
    rule = Task(_ing(parts.taught) + _ing(invented), old, 0.0, _ing(unseen), control)
    return {"exceptions": exceptions, "rule": rule}
