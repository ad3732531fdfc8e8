"""Runs an experiment's run.py once more, for the notes gate: the child's side, as relay.py is.

In a child of the fork server torch is loaded already, which is most of what a fresh process takes.
Leaves out: what is measured (the experiment) and whether the notes agree (notes.py).
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from minituner.grading import relay


def main(wire: Connection, root: str, script: str, args: Sequence[str]) -> None:
    """Entry point of the child process: what the script prints, as `python script args` would."""
    relay.hush(Path(root))
    sys.argv = [script, *args]
    sys.path.insert(0, str(Path(script).parent))  # an experiment is several files
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(BaseException):
        runpy.run_path(script, run_name="__main__")
    wire.send_bytes(said.getvalue().encode())
    os._exit(0)  # skip atexit handlers: nothing after the answer may hang
