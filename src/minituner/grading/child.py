"""Child processes for a learner's code: how they start, and that none outlives its run.

On Linux a child is forked from a server that has torch and pytest loaded and a run rehearsed; on
macOS and Windows, where a fork is unsafe or absent, it starts from nothing.
Leaves out: what it does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import ModuleType

STARTING = threading.Lock()  # children are started one at a time
SERVER = ("preload", "rehearse")  # what the fork server imports


@cache
def context() -> BaseContext:
    """How children start: a preloaded fork server on Linux, a fresh interpreter elsewhere."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload([f"minituner.grading.{name}" for name in SERVER])
    return forkserver


def start(target: Callable[..., None], *args: object) -> tuple[Connection, BaseProcess]:
    """A child that runs target(wire, *args), and our end of the wire."""
    ours, theirs = context().Pipe(duplex=False)
    child: BaseProcess = context().Process(  # type: ignore[attr-defined]  # every context has one
        target=target, args=(theirs, *args), daemon=True
    )
    with nobodys_program():
        child.start()
    theirs.close()
    return ours, child


@contextlib.contextmanager
def nobodys_program() -> Iterator[None]:
    """A child started in here does not import the program that started it: a tenth of a second."""
    with STARTING:
        ours, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = ours


def end(child: BaseProcess) -> None:
    """Kill the child and whatever it started, and wait for it."""
    if child.pid is not None and hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.join()
