"""The judge's end of the desk: the gates on a submitted text, without reading it in this process.

A text that no reader survives is refused, and that is the submission's doing. A desk that is gone
is ours: it is started again once, and then the outcome is `error`. Linux only.
Leaves out: how a text is read (desk.py), intake (intake.py), and the price of a gate (report.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from minituner.grading.registry import ROOT, Lab
from minituner.grading.report import GateResult
from minituner.words import VARIABLE, language, needs_linux, say

ANSWER_SECONDS = 300.0  # above all that the desk allows its children for one request
WARM_SECONDS = 900.0  # a first build on a cold disk, on a slow machine
END_SECONDS = 5.0
LIMITS = ("cpu", "MemoryError", "RecursionError")  # the reference was read within them


class NoClerk(Exception):
    """This system cannot do it: the caller's mistake."""


class DeskLost(Exception):
    """The desk ended or does not answer."""


class Clerk:
    """Starts a desk a lab when it is first asked; a context manager that leaves nothing behind.

    Args:
        warm: keep mypy in memory, about 250 MB; False takes the disk cache each time, which is
            quicker for a single submission.
    """

    def __init__(self, *, warm: bool = True) -> None:
        self.warm = warm
        self._desks: dict[str, _Desk] = {}
        self._stopped = False

    def __enter__(self) -> Clerk:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every desk; the next question would start a new one."""
        while self._desks:
            self._desks.popitem()[1].close()

    def stop(self) -> None:
        """End every desk for good: a question under way in another thread is not asked again."""
        self._stopped = True
        self.close()

    def prepare(self, lab: Lab) -> str:
        """Have everything warm before it is needed; returns why mypy is not, or "".

        Raises:
            DeskLost: the desk does not start.
        """
        return str(self._ask(lab, "prepare", "")["cold"])

    def review(self, lab: Lab, text: str) -> dict[str, GateResult]:
        """The gates source, checkers, parameters and ruff; source alone where it has no tree."""
        try:
            reply = self._ask(lab, "read", text)
        except DeskLost as lost:
            return {"source": GateResult("source", "error", (str(lost),))}
        if reply["gates"]:
            return {row["id"]: gate_from(row) for row in reply["gates"]}
        if reply["ours"] or reply["ended"] == "wall":
            said = say("{file}: the gates broke ({why})", file=lab.star, why=reply["ended"])
            return {"source": GateResult("source", "error", (said,))}
        said = say(
            "{file}: it cannot be read safely ({why}); write it shorter and less nested",
            file=lab.star,
            why=_why(reply["ended"]),
        )
        return {"source": GateResult("source", "failed", (said,), ("*",))}

    def types(self, lab: Lab, text: str) -> GateResult:
        """`mypy --strict` on the text; running into a limit that others keep is its own doing."""
        try:
            reply = self._ask(lab, "types", text)
        except DeskLost as lost:
            return GateResult("types", "error", (str(lost),))
        if reply["gates"]:
            return gate_from(reply["gates"][0])
        why = say("mypy did not run: {why}", why=_why(reply["ended"]))
        return GateResult("types", "failed" if reply["ended"] in LIMITS else "error", (why,))

    def _ask(self, lab: Lab, what: str, text: str) -> dict[str, Any]:  # Any: JSON
        """The desk's reply; a desk that is lost is replaced once.

        Raises:
            DeskLost: twice in a row.
        """
        request = {"what": what, "text": text, "language": language()}
        for last in (False, True):
            try:
                if lab.id not in self._desks:
                    self._desks[lab.id] = _Desk(lab, self.warm)
                return self._desks[lab.id].ask(request)
            except DeskLost:
                if lab.id in self._desks:
                    self._desks.pop(lab.id).close()
                if last or self._stopped:
                    raise
        raise AssertionError("the loop returns or raises")


def _why(ended: str) -> str:
    reasons = {
        "cpu": say("it takes too much processor time"),
        "wall": say("it takes too long"),
        "dead": say("its reader died"),
    }
    return reasons.get(ended, ended)


def gate_from(row: dict[str, Any]) -> GateResult:  # Any: JSON
    """A GateResult that went through JSON."""
    return GateResult(row["id"], row["outcome"], tuple(row["findings"]), tuple(row["costs"]))


class _Desk:
    """One process, its line and its folder."""

    def __init__(self, lab: Lab, warm: bool) -> None:
        if platform.system() != "Linux":
            raise NoClerk(needs_linux())
        self.folder = tempfile.mkdtemp(prefix="minituner-desk-")
        ours, theirs = socket.socketpair()
        self.wire = Connection(ours.detach())
        file = theirs.fileno()
        command = [sys.executable, "-P", "-m", "minituner.grading.desk", str(file), lab.id]
        path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
        try:
            self.process = subprocess.Popen(
                [*command, "warm" if warm else "cold"],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": path, VARIABLE: language()},
                stdin=subprocess.DEVNULL,
                pass_fds=(file,),
                start_new_session=True,  # Ctrl-C is the judge's; it ends the desk itself
            )
        except OSError as error:
            self.wire.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise DeskLost(say("the clerk's desk did not start ({why})", why=error)) from None
        finally:
            theirs.close()

    def ask(self, request: dict[str, str]) -> dict[str, Any]:  # Any: JSON
        try:
            self.wire.send_bytes(json.dumps(request).encode("ascii"))
            seconds = ANSWER_SECONDS if request["what"] == "read" else WARM_SECONDS
            if self.wire.poll(seconds):
                reply: dict[str, Any] = json.loads(self.wire.recv_bytes())
                return reply
        except (OSError, EOFError, ValueError):
            pass
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)  # it hangs up a moment before it is gone
        code = self.process.returncode
        raise DeskLost(
            say("the clerk's desk gave no answer (exit {code}); run it again", code=code)
        )

    def close(self) -> None:
        """Hang up, wait, insist; the desk ends its own children and folder when it hears it."""
        self.wire.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
