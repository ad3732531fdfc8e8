"""Hostile submissions through the whole exam: no point unearned, no harm done, no grade moved.

tests/attacks/attacks.toml says what each does and what a sound exam makes of it. The set is run as
whoever runs the tests and, where that is root, once more as a user without privileges.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import unprivileged
from build import Attack, attacks
from readme_output import take_types
from scene import stage
from sessions import SECRET, Sessions

from minituner.grading.exam import Examiner
from minituner.grading.host import CPU_SECONDS, MEMORY_BYTES, Box
from minituner.grading.peer import Peer
from minituner.grading.registry import ROOT, lab, labs
from minituner.grading.report import Report
from minituner.grading.sitting import NEXT_CPU_SECONDS
from minituner.grading.tools import CACHE

ATTACKS = sorted(attacks(), key=lambda attack: attack.lab)
NESTED = "MINITUNER_ATTACKED_AS_NOBODY"  # set in the second run, so that it does not start a third
SECONDS = 120.0  # above every limit of the exam together
# Attacks that earn nothing, loop or wait may take all the time there is, so there is less of it:
# CPU seconds of a first worker and of those after a loss, and wall seconds for a reply. For what
# loops it is twelve of these or more for each of CPU, where the exam has four: on a busy machine a
# loop has to meet the first limit, not the second. What earns a part has four times as much as a
# worker takes for all that is honest: 0.1 s in lab 00, and 0.2 in lab 04, where few are lost. To
# fill memory takes seconds of its own, and those who fill it have a quarter of what the exam gives
# (test_box.py meets the whole).
LIMITS: dict[str, tuple[dict[float, float], float, int]] = {
    "loop": ({CPU_SECONDS: 0.5, NEXT_CPU_SECONDS: 0.25}, 12.0, MEMORY_BYTES),
    "part": ({CPU_SECONDS: 1, NEXT_CPU_SECONDS: 0.5}, 12.0, MEMORY_BYTES),
    "part-04": ({CPU_SECONDS: 1, NEXT_CPU_SECONDS: 1}, 12.0, MEMORY_BYTES),
    "sooner": ({CPU_SECONDS: 2, NEXT_CPU_SECONDS: 0.5}, 12.0, MEMORY_BYTES),
    "memory": ({CPU_SECONDS: 30, NEXT_CPU_SECONDS: 30}, 60.0, MEMORY_BYTES // 4),
    "wait": ({}, 2.0, MEMORY_BYTES),
}
pytest_plugins = ["shared"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the exam needs Linux")


Session = Callable[[Attack], Examiner]


def _limits(attack: Attack) -> str:
    """Which of LIMITS holds: its row's, or fewer seconds where nothing is earned, or the exam's."""
    return attack.limits or ("" if attack.expected else "sooner")


@pytest.fixture(scope="module")
def session(sessions: Sessions) -> Iterator[Session]:
    """One session a lab, as for a course: what one attack leaves, the next would meet."""
    assert Path(os.devnull) != CACHE, "nowhere to keep torch's types: each desk would read them"
    begun = set[Examiner]()

    def of(attack: Attack) -> Examiner:
        examiner = sessions.examiner(lab(attack.lab))
        begun.add(examiner)
        return examiner

    yield of
    for examiner in begun:  # after them all
        assert _score(examiner.examine(ROOT / "solutions")) == 100


@pytest.fixture
def limited(attack: Attack, session: Session) -> Iterator[None]:
    """The exam as it is but for its limits, and for workers that are ready before it begins."""
    box = session(attack).box
    if _limits(attack) not in LIMITS:
        yield
        return
    asked, (seconds, reply, memory) = Box._asked_for, LIMITS[_limits(attack)]

    def asked_for(box: Box, cpu_seconds: float, reply_seconds: float = reply) -> Peer:
        return asked(box, seconds.get(cpu_seconds, cpu_seconds), reply_seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Box, "_asked_for", asked_for)
        defaults = Box.worker.__kwdefaults__
        assert defaults is not None
        patch.setitem(defaults, "reply_seconds", reply)
        patch.setattr(box, "memory_bytes", memory)
        patch.setattr(box, "spare", [])  # those wait for an attack with the exam's own limits
        patch.setattr("minituner.grading.host.SPARES", 0)
        yield


def _score(report: Report) -> int:
    return report.score


def _said(report: Report) -> str:
    lines = [task.message for task in report.tasks]
    return "\n".join([*lines, *(line for gate in report.gates for line in gate.findings)])


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.lab}-{attack.name}")
def test_it_gets_what_it_earned_and_harms_nothing(
    attack: Attack, session: Session, request: pytest.FixtureRequest
) -> None:
    """The exact score, the tasks and the reason; no mark, process, port or word of a secret."""
    if attack.open:  # strict: when the hole is closed, this turns red until the row says so
        request.applymarker(pytest.mark.xfail(strict=True, reason=attack.open))
    examiner, secret = session(attack), os.environ[SECRET]
    with stage(attack, secret) as scene:
        started = time.monotonic()
        report = examiner.examine(scene.folder)
        took = time.monotonic() - started
        harm = scene.harm()
    said = _said(report)
    red = {task.id for task in report.tasks if task.outcome != "passed"}
    every = {task.id for task in lab(attack.lab).tasks}
    assert harm == set()
    assert report.score == attack.expected, (sorted(red), said[:2000])
    assert red == (every if attack.tasks_failed == ("all",) else set(attack.tasks_failed))
    assert "error" not in {task.outcome for task in report.tasks}, said[:2000]
    assert re.search(attack.reason, said), said[:2000]
    assert secret not in said
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\ud800-\udfff]", said)
    assert took < SECONDS


def test_the_list_is_well_formed() -> None:
    """At least 40 attacks beside the controls, each said in both languages."""
    names = [attack.name for attack in ATTACKS]
    assert len(names) >= 44
    assert len(set(names)) == len(names)
    assert {"correct", "wrong", "correct-noted"} <= set(names)
    assert all(attack.about_en.strip() and attack.about_es.strip() for attack in ATTACKS)
    tasks = {which.id: {task.id for task in which.tasks} | {"all"} for which in labs().values()}
    assert all(set(attack.tasks_failed) <= tasks[attack.lab] for attack in ATTACKS)
    assert {attack.lab for attack in ATTACKS} == set(labs())
    assert {attack.limits for attack in ATTACKS} == {"", *LIMITS} - {"sooner"}
    assert not any(attack.expected for attack in ATTACKS if attack.limits == "loop")


@pytest.mark.long(130)
@pytest.mark.skipif(NESTED in os.environ, reason="this is that run")
@pytest.mark.skipif(not unprivileged.AVAILABLE, reason="needs root, setpriv and unshare")
def test_all_of_them_once_more_without_a_privilege(tmp_path: Path) -> None:
    """The same list, examined by a user who has no privilege at all."""
    take_types(tmp_path / ".cache/minituner/mypy")
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o777)
    words = [sys.executable, "-m", "pytest", str(ROOT / "tests/upkeep/test_attacks.py"), "-q"]
    words += ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:benchmark", f"--rootdir={ROOT}"]
    done = subprocess.run(
        unprivileged.command(words, [ROOT, tmp_path]),
        cwd=ROOT,
        env=os.environ
        | {
            NESTED: "1",
            SECRET: secrets.token_hex(16),  # there from its first moment, for whoever reads /proc
            "HOME": str(tmp_path),
            "TMPDIR": str(tmp_path),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    known = sum(bool(attack.open) for attack in ATTACKS)
    assert f"{len(ATTACKS) + 1 - known} passed" in done.stdout, done.stdout[-500:]
