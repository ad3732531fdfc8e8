"""The child's side of a contract run: pytest in a process of its own, telling each result at once.

Runs beside the learner's code, so it judges nothing: it passes on what pytest saw, as JSON lines.
Leaves out: protection. Practice can be forged by the file it runs, and the card says so.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from minituner.grading.child import IMPORT_SLACK
from minituner.words import say

# Logging, long tracebacks and rewritten asserts cost half of the time, and nobody reads them here:
# each assert of a contract says by itself what was measured. What is printed goes nowhere anyway.
UNUSED = ["cacheprovider", "logging", "doctest", "pastebin", "stepwise", "setuponly", "setupplan"]
UNUSED += ["subtests", "faulthandler"]
SPARING = (*(f"-pno:{name}" for name in UNUSED), "--capture=no", "--tb=native", "--assert=plain")
# The order is randomly's; what a test draws is seeded by conftest.py, once.
PLUGINS = ("-ppytest_randomly", "--randomly-dont-reset-seed", *SPARING)


def own_line(frames: traceback.StackSummary, star: Path) -> str:
    """The innermost line of the learner's file on a stack: "lora.py:41  return x", or nothing."""
    mine = [frame for frame in frames if frame.filename == str(star)]
    return f"{star.name}:{mine[-1].lineno}  {mine[-1].line}" if mine else ""


def told(error: BaseException, star: Path) -> tuple[str, str]:
    """(message, where): what the error says, and the learner's own line that it passed through."""
    if isinstance(error, SyntaxError) and error.filename == str(star):
        line = (error.text or "").strip()
        return f"{type(error).__name__}: {error.msg}", f"{star.name}:{error.lineno}  {line}"
    text = str(error).split("\nassert ")[0].rstrip()  # pytest appends its own view of the assert
    said = text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"
    if isinstance(error, Warning):
        said = f"{said}\n{say('here a warning is an error')}"
    return said.strip("\n")[:4000], own_line(traceback.extract_tb(error.__traceback__), star)


class Relay:
    """A pytest plugin that sends one event per line of progress."""

    def __init__(self, wire: Connection, star: Path) -> None:
        self.wire = wire
        self.star = star
        self.worst: dict[str, str] = {}
        self.since: float | None = None  # when what is watched started, time.monotonic()
        self.slack = IMPORT_SLACK  # importing and collecting may take this many tests' time

    def tell(self, event: str, **fields: object) -> None:
        self.wire.send_bytes(json.dumps({"event": event, **fields}).encode())

    def pytest_exception_interact(
        self, node: pytest.Item | pytest.Collector, call: pytest.CallInfo[object]
    ) -> None:
        if isinstance(node, pytest.Item) or call.excinfo is None:
            return
        error = call.excinfo.value
        message, where = told(error.__cause__ or error, self.star)
        self.tell("uncollected", message=message, where=where)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.since, self.slack = None, 1
        self.tell("collected", ids=[item.nodeid for item in session.items])

    def pytest_internalerror(
        self, excrepr: object, excinfo: pytest.ExceptionInfo[BaseException]
    ) -> None:
        message, where = told(excinfo.value, self.star)
        if where or isinstance(excinfo.value, SystemExit):  # the file's doing, not pytest's
            self.tell("stopped", message="\n".join(filter(None, (where, message))))
        else:
            self.tell("broken", message=str(excrepr)[-2000:])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.worst = {"outcome": "failed", "message": "", "where": ""}
        self.since = time.monotonic()
        self.tell("start", id=nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "call" and report.outcome == "passed":
            self.worst["outcome"] = "passed"
        elif report.outcome != "passed":
            # A skip raised by the learner's code is no pass; a teardown that fails is none either.
            error = call.excinfo.value if call.excinfo else RuntimeError("no exception")
            message, where = told(error, self.star)
            todo = isinstance(error, NotImplementedError) and report.when == "call"
            self.worst = {
                "outcome": "todo" if todo else "failed",
                "message": str(error) if todo else message,
                "where": where,
            }
        return report

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.since = None
        self.tell("result", id=nodeid, **self.worst)

    def watch(self, limit: float) -> None:
        """Say where the main thread hangs when a test, or importing the file, exceeds its limit.

        The parent has its own clock; this one knows the line.
        """
        main_thread = threading.main_thread().ident
        while True:
            time.sleep(0.1)
            since = self.since
            if since is not None and time.monotonic() - since > limit * self.slack:
                frame = sys._current_frames().get(main_thread or 0)
                self.tell("stuck", where=own_line(traceback.extract_stack(frame), self.star))
                return


def hush(root: Path) -> None:
    """A process group of its own, no input, no output, only our plugins, the repository's root."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that whatever the file starts can be ended with this process
    quiet = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(quiet, standard)
    importlib.import_module("minituner.grading.preload")  # where no fork server has done it
    settle(root)
    threading.Thread(target=_no_orphan, daemon=True).start()


def _no_orphan() -> None:
    """End with whoever started this process, should it be killed; the fork server would not."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def settle(root: Path) -> None:
    """pytest at home in the repository, with no options or plugins but ours."""
    os.chdir(root)
    os.environ.pop("PYTEST_ADDOPTS", None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # only our plugins: other machines, same run


def main(wire: Connection, root: str, star: str, args: Sequence[str], limit: float) -> None:
    """Entry point of the child process.

    Args:
        wire: where the events go.
        root: the repository; pytest runs there.
        star: the file under test, as it appears in tracebacks.
        args: pytest's own.
        limit: seconds for one test.
    """
    hush(Path(root))
    relay = Relay(wire, Path(star))
    relay.tell("ready")
    relay.since = time.monotonic()
    threading.Thread(target=relay.watch, args=(limit,), daemon=True).start()
    try:
        if pytest.main([*args, *PLUGINS, "-q"], plugins=[relay]) == pytest.ExitCode.USAGE_ERROR:
            relay.tell("broken", message="pytest: usage error")
    except BaseException as error:
        relay.tell("stopped", message=f"{type(error).__name__}: {error}")
    relay.tell("done")
    os._exit(0)  # skip atexit handlers: nothing after "done" may hang
