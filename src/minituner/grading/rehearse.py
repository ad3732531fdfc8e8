"""What the fork server does once where many runs are to come: a run in which nothing is written.

pytest finds its plugins, Python specialises what every run goes through and compiles the contract,
and each child inherits it: a third of a run's time. The stand-in raises at whatever a contract asks
it for, so no learner's file and no reference is read here.
Leaves out: macOS and Windows, where a child starts from nothing; a single grade, which would take
longer with it.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

import pytest
import torch

from minituner import minigpt
from minituner.grading import relay
from minituner.grading.child import REHEARSED
from minituner.grading.registry import ROOT, Lab, labs

PRACTICE = 12  # times
UNWRITTEN = """
class Unwritten:
    def __init__(self, *given: object, **named: object) -> None:
        raise NotImplementedError

def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    return Unwritten
"""


def warm() -> None:
    """Go the ways that every contract goes: torch imports late, and Python learns what is common.

    Neutral code only: a model the lab gives, its layers, a backward, a saved state.
    """
    config = minigpt.MiniGPTConfig(13, block_size=6, n_layer=2, n_head=2, d_model=12, d_ff=20)
    torch.nn.init.kaiming_uniform_(torch.empty(3, 3, device="meta"))
    for _ in range(PRACTICE):
        model = copy.deepcopy(minigpt.MiniGPT(config).to(torch.float64))
        logits = model(torch.randint(0, 13, (3, 6)))
        torch.autograd.backward(logits.logsumexp(-1).sum())
        torch.optim.AdamW(model.parameters()).step()
        layer = torch.nn.Linear(5, 4)
        torch.nn.init.kaiming_uniform_(layer.weight, a=5**0.5)
        torch.nn.functional.dropout(torch.einsum("or,ri->oi", torch.ones(4, 2), torch.ones(2, 5)))
        copy.deepcopy(layer).to(torch.bfloat16)(torch.ones(2, 5, dtype=torch.bfloat16))
        model.requires_grad_(False).train().eval()
        list(model.named_modules(remove_duplicate=False)), list(model.named_parameters())
        kept = io.BytesIO()
        torch.save(model.state_dict(), kept)
        kept.seek(0)
        model.load_state_dict(torch.load(kept, weights_only=True))


@cache
def compiled(path: str, modified: int, size: int) -> CodeType:
    """The file's code; compiling a contract takes as long as running a third of it."""
    return compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)


class Compiled(SourceFileLoader):
    """Takes the code of a file that has not changed since from memory."""

    def get_code(self, fullname: str) -> CodeType:
        about = os.stat(self.path)
        return compiled(self.path, about.st_mtime_ns, about.st_size)


class Contracts(MetaPathFinder):
    """Finds conftest.py and the contracts, under the names pytest gives them."""

    def __init__(self) -> None:
        paths = [ROOT / "conftest.py", *(ROOT / lab.contract for lab in labs().values())]
        self.files = {path.stem: str(path) for path in paths}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self.files.get(name)
        if file is None:
            return None
        return spec_from_file_location(name, file, loader=Compiled(name, file))


def rehearse(lab: Lab) -> int:
    """Every test of the lab's contract, each ending in NotImplementedError; pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        star = Path(folder) / lab.star
        star.write_text(UNWRITTEN, encoding="utf-8")
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
    warm()
    relay.settle(ROOT)
    chosen = os.environ.get(REHEARSED, "").split() or list(labs())
    finders, quiet, ended = [Contracts(), *sys.meta_path], io.StringIO(), {}
    sys.meta_path[:] = finders
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        for lab in (labs()[one] for one in chosen):
            with contextlib.suppress(Exception):  # a comfort: a run without it is only slower
                ended[lab.id] = rehearse(lab)
            forget(lab)
    sys.meta_path[:] = finders
    gc.unfreeze()  # pytest's sessions are over, and conftest.py has frozen them
    gc.collect()
    gc.freeze()
    return ended


ENDED = main()
