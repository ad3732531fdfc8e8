"""One file in place of another module: how `--impl` makes a submission be minituner.lora.

Leaves out: isolation; the file runs in this process.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from minituner.grading.registry import ROOT, labs


class Fresh(SourceFileLoader):
    """Always compiles the source: bytecode of an edit within the same second would be stale."""

    def path_stats(self, path: Any) -> Mapping[str, Any]:
        raise OSError("no bytecode is read or written for this file")


class StandIn(MetaPathFinder):
    """Finds the given modules in the given files."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.files:
            return None
        found = str(self.files[name])
        return spec_from_file_location(name, found, loader=Fresh(name, found))


def standing(impl: str) -> dict[str, Path]:
    """Module name -> file for every ★ file that `impl` names; none for the student's own.

    Args:
        impl: student, reference, a file, or a folder that holds some (as in a clone, or flat).
    """
    if impl == "student":
        return {}
    path = ROOT / "solutions" if impl == "reference" else Path(impl).resolve()
    found = {}
    for lab in labs().values():
        places = (path / lab.file, path / lab.star) if path.is_dir() else (path,)
        file = next((place for place in places if place.is_file()), path)
        if file.is_file() and file.name == lab.star:
            found[f"minituner.{file.stem}"] = file
    return found


def stand_in(files: Mapping[str, Path]) -> None:
    """From now on, importing each of these module names reads the file given for it."""
    for name in files:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, StandIn(files))
