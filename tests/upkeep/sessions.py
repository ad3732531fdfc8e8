"""One box, one clerk and one session a lab for all the tests of a process: a start takes seconds.

What one test leaves there, the next meets, as submissions do. Leaves out: a box that is to be
broken or has walls of its own, and how a session starts; such a test opens its own.
"""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack

from minituner.grading.clerk import Clerk
from minituner.grading.exam import Examiner
from minituner.grading.host import GIVEN, Box
from minituner.grading.registry import Lab

SECRET = "MINITUNER_PRIVATE"


class Sessions:
    """Each opened when it is first asked for; a context manager that closes them all.

    A box has its next workers ready, with the limits of the moment they were made; so tests that
    change them (test_attacks.py) name their limits, and have a box for each.
    """

    def __init__(self) -> None:
        self.open = ExitStack()
        os.environ.setdefault(SECRET, secrets.token_hex(16))  # and so of all that is started below
        self.clerk = self.open.enter_context(Clerk())
        self.boxes: dict[str, Box] = {}
        self.examiners: dict[tuple[str, str], Examiner] = {}

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    def box(self, limits: str = "") -> Box:
        if limits not in self.boxes:
            self.boxes[limits] = self.open.enter_context(Box(GIVEN))
        return self.boxes[limits]

    def examiner(self, lab: Lab, limits: str = "") -> Examiner:
        key = lab.id, limits
        if key not in self.examiners:
            examiner = Examiner(lab, box=self.box(limits), clerk=self.clerk)
            self.examiners[key] = self.open.enter_context(examiner)
        return self.examiners[key]
