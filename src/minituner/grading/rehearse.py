"""What the fork server does once besides importing: a contract run in which nothing is written yet.

pytest finds its plugins, Python specialises what every run goes through, and each child inherits
it: a third of a run's time. The stand-in raises at every name a lab asks for, so no learner's file
and no reference is read here. Leaves out: macOS and Windows, where a child starts from nothing.
"""

from __future__ import annotations

import contextlib
import gc
import io
import sys
import tempfile
from pathlib import Path

import pytest

from minituner.grading import relay
from minituner.grading.registry import ROOT, Lab, labs

UNWRITTEN = """class {name}:
    def __init__(self, *given: object, **named: object) -> None:
        raise NotImplementedError
"""


def rehearse(lab: Lab) -> int:
    """Every test of the lab's contract, each ending in NotImplementedError; pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        star = Path(folder) / lab.star
        star.write_text("".join(UNWRITTEN.format(name=n) for n in lab.names), encoding="utf-8")
        args = [lab.contract, f"--impl={star}", f"--basetemp={folder}/t", "--device=cpu"]
        return pytest.main([*args, *relay.PLUGINS, "-q"])


def forget(lab: Lab) -> None:
    """Drop what a child has to read anew: the file under test, the contract and conftest."""
    for path in ("conftest", lab.contract, lab.file):
        name = Path(path).stem
        for module in (name, f"minituner.{name}"):
            sys.modules.pop(module, None)


def main() -> dict[str, int]:
    """How pytest ended, by lab."""
    relay.settle(ROOT)
    finders, quiet, ended = list(sys.meta_path), io.StringIO(), {}
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        for lab in labs().values():
            with contextlib.suppress(Exception):  # a comfort: a run without it is only slower
                ended[lab.id] = rehearse(lab)
            forget(lab)
    sys.meta_path[:] = finders
    gc.collect()
    gc.freeze()
    return ended


ENDED = main()
