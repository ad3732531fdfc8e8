"""How a file behaves under the exam's checks at one fixed seed: what diagnosis compares.

The child's side of a practice run, like relay.py: it runs beside the learner's code, in one process
with it, and what it tells can be forged. In the exam the same checks go to a worker behind walls.
Leaves out: the comparing (diagnose.py).
"""

from __future__ import annotations

import json
from collections import deque
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from torch import Tensor

from minituner.grading import relay
from minituner.grading.asked import own, put
from minituner.grading.box import kit_04, protocol
from minituner.grading.box.worker import Worker
from minituner.grading.checks.asking import Asking
from minituner.grading.diagnose import SEED, Signs, seen
from minituner.grading.host import GIVEN
from minituner.grading.peer import Frame, Lost, Peer, Raised
from minituner.grading.registry import Lab, lab


class Here(Peer):
    """A worker in this very process, spoken to in the same frames."""

    def __init__(self, module: str, file: str, source: str) -> None:
        super().__init__(-1, -1, cpu_seconds=0)
        given = {name: import_module(name) for name in GIVEN}
        self.answers: deque[Frame] = deque()
        with kit_04.held() as given[kit_04.FOLDERS]:  # here a file would be a file
            self.worker = Worker(-1, given)
            self.load(module, file, source)

    def send(self, header: dict[str, Any], tensors: list[Tensor]) -> None:
        asked = protocol.opened(protocol.pack(header, tensors))
        self.answers.append(protocol.opened(self.worker.answered(*asked)))

    def receive(self, seconds: float | None = None) -> Frame:
        return self.answers.popleft()

    def end(self) -> str:
        return ""


def signs(lab: Lab, source: str, worker: type[Here] = Here) -> Signs:
    """What every check of the lab shows; empty where the file cannot be run."""
    module = lab.module
    checks = import_module(f"minituner.grading.checks.lab{lab.id}").CHECKS
    try:
        loaded = partial(worker, module, lab.star, source)
        here = loaded()

        def asking(name: str) -> Asking:
            return Asking(here, module, own(SEED, name), loaded)

        found = {
            name: put(lab, name, check, partial(asking, name)) for name, check in checks.items()
        }
    except (Raised, Lost):
        return {}
    return seen({name: result for name, result in found.items() if not isinstance(result, Lost)})


def main(wire: Connection, root: str, lab_id: str, source: str) -> None:
    """Entry point of the child process."""
    relay.hush(Path(root))
    wire.send_bytes(json.dumps(signs(lab(lab_id), source)).encode("ascii"))
    wire.close()
