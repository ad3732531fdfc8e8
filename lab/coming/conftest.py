"""Reads lab 04's modules from lab/coming as if they stood in src/minituner already.

minituner.bridge is the reference; there is no stub before the lab is registered. README.md says how
the lab opens. Leaves out: --impl, which knows registered labs only.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import minituner
from minituner.standin import stand_in

HERE = Path(__file__).resolve().parent

minituner.__path__.append(str(HERE / "src/minituner"))
stand_in({"minituner.bridge": HERE / "solutions/bridge.py"})


def pytest_pycollect_makemodule() -> None:
    """Skips where safetensors is not installed: the given modules import it."""
    pytest.importorskip("safetensors")
