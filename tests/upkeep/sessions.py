"""One box, one clerk and one session a lab for all the tests of a process: a start takes seconds.

What one test leaves there, the next meets, as submissions do. Leaves out: a box that is to be
broken or has walls of its own, and how a session starts; such a test opens its own.
"""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from functools import cached_property

from minituner.grading.clerk import Clerk
from minituner.grading.exam import Examiner
from minituner.grading.host import GIVEN, Box
from minituner.grading.registry import Lab

SECRET = "MINITUNER_PRIVATE"


class Sessions:
    """Each opened when it is first asked for; a context manager that closes them all."""

    def __init__(self) -> None:
        self.open = ExitStack()
        os.environ.setdefault(SECRET, secrets.token_hex(16))  # and so of all that is started below
        self.clerk = self.open.enter_context(Clerk())
        self.examiners: dict[str, Examiner] = {}

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    @cached_property
    def box(self) -> Box:
        return self.open.enter_context(Box(GIVEN))

    def examiner(self, lab: Lab) -> Examiner:
        if lab.id not in self.examiners:
            examiner = Examiner(lab, box=self.box, clerk=self.clerk)
            self.examiners[lab.id] = self.open.enter_context(examiner)
        return self.examiners[lab.id]
