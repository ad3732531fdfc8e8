"""Modules that stand in a folder beside others, loaded as its scripts load them.

Leaves out: the ★ files of a run, which --impl chooses.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace


def together(folder: Path, *names: str) -> SimpleNamespace:
    """The folder's modules by their bare names; afterwards none is importable so."""
    sys.path.insert(0, str(folder))
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(folder))
        for path in folder.glob("*.py"):
            sys.modules.pop(path.stem, None)
