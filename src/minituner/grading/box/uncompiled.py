"""Stands in for torch's compiler where nothing is compiled: loading it takes a second and 68 MB.

torch wraps what its compiler must leave alone, optimisers and draws on a meta tensor among it, and
for that imports all of torch._dynamo when it is first called. Here it finds what it asks for,
without effect, as it is where nothing is compiled. Whoever asks for more gets the real one.
Source: torch/_compile.py, torch/optim/optimizer.py at the pinned version.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch

NAME = "torch._dynamo"
Function = TypeVar("Function", bound=Callable[..., Any])


def disable(fn: Function, recursive: bool = True, *, wrapping: bool = True) -> Function:
    """A function that the compiler is to leave alone: itself."""
    return fn


def graph_break(msg: str = "") -> None:
    """Where the compiler is to stop: nowhere."""


def stand_in() -> None:
    """Put the stand-in in place, unless the compiler is loaded already."""
    if NAME in sys.modules:
        return
    module = ModuleType(NAME)
    module.__file__ = str(Path(torch.__file__).parent / "_dynamo" / "__init__.py")
    module.__dict__.update(disable=disable, graph_break=graph_break, __getattr__=_real)
    sys.modules[NAME] = module
    torch.__dict__["_dynamo"] = module


def _real(name: str) -> Any:  # Any: whatever of the compiler's
    """What the stand-in does not have; __path__ where a module in it is imported.

    Raises:
        AttributeError: the compiler does not have it either.
    """
    if name.startswith("__") and name != "__path__":
        raise AttributeError(name)
    if getattr(sys.modules[NAME], "disable", None) is disable:
        del sys.modules[NAME], torch.__dict__["_dynamo"]
    return getattr(importlib.import_module(NAME), name)
