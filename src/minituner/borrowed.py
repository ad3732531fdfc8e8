"""lora.py for the experiments of later labs: yours, or the reference's while yours is a stub.

So labs can be done in any order. Leaves out: whether yours is right; lab 00 says that.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from minituner.standin import stand_in
from minituner.verbbase import new_model

REFERENCE = Path(__file__).resolve().parents[2] / "solutions" / "lora.py"


@cache
def found() -> tuple[ModuleType, bool]:
    """The module minituner.lora, able to wrap a MiniGPT; whether it stands in for a stub."""
    own = import_module("minituner.lora")
    try:
        own.wrap_minigpt_with_lora(new_model(), r=1, alpha=1.0, dropout=0.0)
    except NotImplementedError:
        stand_in({"minituner.lora": REFERENCE})
        return import_module("minituner.lora"), True
    return own, False


def lora() -> ModuleType:
    return found()[0]


def is_borrowed() -> bool:
    return found()[1]
