"""Child processes for a learner's code: how they start, and that none outlives its run.

On Linux a child is forked from a server that has torch and pytest loaded and, where many runs are
to come, one rehearsed; on macOS and Windows, where a fork is unsafe or absent, it starts from
nothing.
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
from functools import cache, partial
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import ModuleType

STARTING = threading.Lock()  # children are started one at a time
SERVER = ["preload"]  # what the fork server imports
IMPORT_SLACK = 3  # importing and collecting may take so many times as long as a test
REHEARSED = "MINITUNER_REHEARSED"  # the labs that it rehearses


def expect_many(*labs: str) -> None:
    """Have the server rehearse these labs, or all, first. Call it before the first child starts.

    It takes the server seconds and saves each child a fifth of one.
    """
    if "rehearse" not in SERVER:
        SERVER.append("rehearse")
    os.environ[REHEARSED] = " ".join(labs)  # the server inherits it


@cache
def context() -> BaseContext:
    """How children start: a preloaded fork server on Linux, a fresh interpreter elsewhere."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload([f"minituner.grading.{name}" for name in SERVER])
    return forkserver


Child = tuple[Connection, BaseProcess]  # our end of the wire, and the process
OnChild = Callable[[Callable[[], None]], None]  # hears how to end a child that has started
SPARE: list[Child] = []  # started, and waiting to hear what to do


def start(target: str, *args: object) -> Child:
    """A child that runs target(wire, *args): the spare one, where there is one.

    Args:
        target: "module:function". Here its module is not imported: torch, or pytest, would take as
            long as the rest of a command.
    """
    while SPARE:
        wire, child = SPARE.pop()
        with contextlib.suppress(OSError):  # it is gone: take another
            wire.send((target, args))
            return wire, child
        _drop(wire, child)
    wire, child = _started()
    wire.send((target, args))
    return wire, child


def answer(target: str, *args: object, seconds: float, on_child: OnChild) -> bytes:
    """The one thing a child has to say; it does not outlive its time, nor whoever asked.

    Raises:
        EOFError: it ended without a word.
        OSError: it is gone, or, as TimeoutError, took longer.
    """
    wire, child = start(target, *args)
    try:
        on_child(partial(end, child))
        if not wire.poll(seconds):
            raise TimeoutError
        return wire.recv_bytes(1 << 20)
    finally:
        end(child)
        wire.close()


def stock(count: int) -> None:
    """Have children started before they are needed: it saves a run 25 ms for each."""
    while len(SPARE) < count:
        SPARE.append(_started())


def unstock() -> None:
    """End the spare children."""
    while SPARE:
        _drop(*SPARE.pop())


def _drop(wire: Connection, child: BaseProcess) -> None:
    end(child)
    wire.close()


def _started() -> Child:
    ours, theirs = context().Pipe()
    child: BaseProcess = context().Process(  # type: ignore[attr-defined]  # every context has one
        target=_wait, args=(theirs,), daemon=True
    )
    with nobodys_program():
        child.start()
    theirs.close()
    return ours, child


def _wait(wire: Connection) -> None:
    """Entry point of every child: hear what to do, and do it."""
    try:
        target, args = wire.recv()
    except EOFError:  # nobody needs it any more
        return
    module, _, function = target.partition(":")
    getattr(import_module(module), function)(wire, *args)


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
