"""The exam is right: every planted bug dies, every honest style gets its marks, a seed repeats."""

from __future__ import annotations

import hashlib
import inspect
import json
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from harness import LAB, REFERENCE, Mutant, draw_seeds, lab_of, mutants, variants
from processes import desk_of
from sessions import Sessions

from minituner.grading.checks.asking import Asking, Wrong
from minituner.grading.checks.lab00 import CHECKS
from minituner.grading.claims import claims
from minituner.grading.exam import Examiner, Unfit, paper
from minituner.grading.host import Box
from minituner.grading.intake import NoSubmission
from minituner.grading.peer import Lost, Peer, Raised
from minituner.grading.registry import ROOT, Lab, labs
from minituner.grading.report import Report
from minituner.grading.sitting import BESIDE, Room, Sitting, sit, wants_another
from minituner.grading.stub import stub

pytest_plugins = ["shared"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the exam needs Linux")
LABS = list(labs().values())
MUTANTS = [mutant for which in LABS for mutant in mutants(which)]
VARIANTS = [path for which in LABS for path in variants(which)]
every_lab = pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.id)


@pytest.fixture
def examiner(sessions: Sessions) -> Examiner:
    return sessions.examiner(LAB)


def red(sitting: Sitting) -> dict[str, str]:
    """Test name -> message, for every test that is not passed."""
    if sitting.unrunnable:
        return {"unrunnable": sitting.unrunnable}
    return {n: r.message for n, r in sitting.tests.items() if r.outcome != "passed"}


def sat(box: Box, lab: Lab, text: str, seed: int | None = None) -> dict[str, str]:
    """What is red when the lab's checks are put to a text."""
    seed = random.randrange(2**31) if seed is None else seed
    return red(sit(box, lab, paper(lab).checks, text, seed))


@every_lab
def test_every_claim_of_the_contract_has_its_check(lab: Lab) -> None:
    """By name, one for one; and each contract test says a cause that the exam can quote."""
    wanted = {name for task in lab.tasks for name in task.tests}
    assert set(paper(lab).checks) == wanted
    said = claims(ROOT / lab.contract)
    assert all(said[name] for name in wanted)


@pytest.mark.seeds
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_a_mutant_dies_in_its_task(mutant: Mutant, box: Box) -> None:
    """A second death: the contract's tests are not what kills it here; its task's checks, alone."""
    every, mine = paper(mutant.lab).checks, mutant.own_tests
    own = {name: every[name] for name in mine}
    for seed in draw_seeds(least=1):
        found = red(sit(box, mutant.lab, own, mutant.source(), seed))
        assert found, f"survives {mutant.killed_by} on seed {seed}"


@every_lab
def test_a_mutant_dies_among_all_the_checks(lab: Lab, box: Box) -> None:
    """A few, drawn anew each time: what other checks do before changes nothing."""
    for mutant in random.sample(mutants(lab), 8):
        found = sat(box, lab, mutant.source())
        assert set(mutant.own_tests) & set(found), (
            f"{mutant.id} survives {mutant.killed_by}; red: {sorted(found)}"
        )


@pytest.mark.seeds
@pytest.mark.parametrize("path", VARIANTS, ids=[f"{p.stem}-{p.parent.name}" for p in VARIANTS])
def test_a_variant_is_green(path: Path, box: Box) -> None:
    """Other people's styles, on seeds that change from run to run."""
    text = path.read_text(encoding="utf-8")
    for seed in draw_seeds(least=3):
        assert sat(box, lab_of(path), text, seed) == {}, f"seed {seed}"


@pytest.mark.seeds
@pytest.mark.long(20)
@every_lab
def test_the_reference_is_green_on_fifty_seeds(lab: Lab, box: Box) -> None:
    """Fifty fresh sets of shapes, values and orders."""
    text = (ROOT / lab.reference).read_text(encoding="utf-8")
    for seed in draw_seeds(least=50):
        assert sat(box, lab, text, seed) == {}, f"seed {seed}"


@pytest.mark.parametrize("lab", LABS[1:], ids=lambda lab: lab.id)
def test_the_reference_of_a_later_lab_gets_100(lab: Lab, sessions: Sessions) -> None:
    """Its notes are measured again behind the walls; a session begins with it, or not at all."""
    report = sessions.examiner(lab).examine(ROOT / "solutions")
    assert report.score == 100, [t for t in report.tasks if t.outcome != "passed"]


STYLES = variants(LAB)[::6]


@pytest.mark.parametrize("path", STYLES, ids=[path.parent.name for path in STYLES])
def test_a_variant_with_its_notes_gets_100(path: Path, examiner: Examiner, tmp_path: Path) -> None:
    """The whole pipeline, with notes that the experiment wrote for that very file."""
    submission = tmp_path / "in"
    (submission / "src/minituner").mkdir(parents=True)
    shutil.copy(path, submission / LAB.file)
    notes = submission / LAB.notes
    notes.parent.mkdir(parents=True)
    shutil.copy(ROOT / "solutions" / LAB.notes_flat, notes)
    with Room(examiner.box, LAB, path.read_text(encoding="utf-8")) as room:
        measured = examiner.paper.measure(room.fresh())
    written = notes.read_text(encoding="utf-8")
    digest = hashlib.sha256((submission / LAB.file).read_bytes()).hexdigest()
    rows = [
        f"| `{key}` | | {value} |" for key, value in (measured | {"lora_sha256": digest}).items()
    ]
    kept = [line for line in written.splitlines() if not line.startswith("| `")]
    notes.write_text("\n".join([*kept, *rows]), encoding="utf-8")
    report = examiner.examine(submission)
    assert report.score == 100, [t for t in report.tasks if t.outcome != "passed"]


def _verdict(report: Report) -> object:
    return replace(report, duration_s=0.0)


def test_a_seed_repeats_a_verdict_word_for_word(examiner: Examiner, tmp_path: Path) -> None:
    """For an appeal: the same seed, the same report, measured values included."""
    text = REFERENCE.read_text(encoding="utf-8")
    wrong = text.replace("out + self.scaling * update", "out + update")
    (tmp_path / "lora.py").write_text(wrong, encoding="utf-8")
    first, again = (examiner.examine(tmp_path, seed=11) for _ in range(2))
    other = examiner.examine(tmp_path, seed=12)
    assert _verdict(first) == _verdict(again)
    assert [t.outcome for t in first.tasks] == [t.outcome for t in other.tasks]
    assert first.tasks != other.tasks  # other values were measured


def test_the_stub_is_todo(examiner: Examiner, tmp_path: Path) -> None:
    """As shipped: 0, nothing failed, and every message says which step."""
    (tmp_path / LAB.star).write_text(stub(LAB), encoding="utf-8")
    report = examiner.examine(tmp_path)
    assert report.score == 0
    assert {task.outcome for task in report.tasks} <= {"todo", "blocked"}


def test_without_a_submission_nothing_is_graded(examiner: Examiner, tmp_path: Path) -> None:
    """A path that is not there is the caller's slip, not a zero."""
    with pytest.raises(NoSubmission, match="nobody"):
        examiner.examine(tmp_path / "nobody")


def test_a_canary_that_is_not_green_stops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that is wrong itself shows on the reference, before anybody is graded."""

    def impossible(ask: object) -> None:
        raise Wrong("1", "2", 0)

    name = next(iter(CHECKS))
    monkeypatch.setitem(CHECKS, name, impossible)
    with pytest.raises(Unfit, match=r"the reference gets \d+/100"), Examiner(LAB):
        pass


def test_a_level_out_of_reach_is_refused() -> None:
    """--require is kept: behind fewer walls nothing is graded."""
    few = ("rlimits", "no_new_privs")
    expected = pytest.raises(Unfit, match=r"at least authoritative, this machine reaches practice")
    with expected, Examiner(LAB, require="authoritative", layers=few):
        pass


def test_another_worker_has_met_no_check(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save in one, load in a fresh one: who asks for another is known before anything is run."""
    asked, another = set[str](), Room.another

    def spied(room: Room) -> Peer:
        names = {frame.function for frame in inspect.stack()}
        asked.update(name for name in CHECKS if name.removeprefix("test_") in names)
        return another(room)

    monkeypatch.setattr(Room, "another", spied)
    assert red(sit(box, LAB, CHECKS, REFERENCE.read_text(encoding="utf-8"), 1)) == {}
    assert asked == {name for name, check in CHECKS.items() if wants_another(check)}
    assert asked


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_loads_only_so_often_fails_and_ends_nothing(
    box: Box, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """It waits in a check, and raises when loaded for the second try: no crash of ours."""
    asked, loaded = [], Peer.loaded

    def seldom(peer: Peer) -> None:
        asked.append(peer)
        if len(asked) > times:
            raise Raised(["ValueError"], "no more", "")
        loaded(peer)

    def wait(ask: Asking) -> None:
        raise Lost("it waits", idle=True)

    monkeypatch.setattr(Peer, "loaded", seldom)
    text = REFERENCE.read_text(encoding="utf-8")
    some = list(CHECKS)[: BESIDE + 1]  # so many that a second worker is asked for
    found = red(sit(box, LAB, dict.fromkeys(some, wait), text, 1))
    assert sorted(found) == sorted(some)
    assert all("no more" in message for message in found.values())


@pytest.mark.parametrize(("more", "workers"), [(0, 1), (1, 2)])
def test_few_checks_need_one_worker(
    box: Box, monkeypatch: pytest.MonkeyPatch, more: int, workers: int
) -> None:
    """A second one begins where the first has left it something to do."""
    begun, begin = [], Peer.begin

    def spied(peer: Peer, *given: str) -> None:
        begun.append(peer)
        begin(peer, *given)

    monkeypatch.setattr(Peer, "begin", spied)
    some = [name for name in CHECKS if not wants_another(CHECKS[name])][: BESIDE + more]
    checks = {name: CHECKS[name] for name in some}
    assert red(sit(box, LAB, checks, REFERENCE.read_text(encoding="utf-8"), 1)) == {}
    assert len(begun) == workers


def test_what_a_session_was_given_stays_open(sessions: Sessions) -> None:
    """Box and clerk serve the next one: the same zygote, the same desk."""
    box, clerk = sessions.box, sessions.clerk
    with Examiner(LAB, box=box, clerk=clerk):
        zygote, desk = box.process, desk_of(clerk)
    assert zygote is not None and zygote is box.process and zygote.poll() is None
    assert clerk.review(LAB, "") and desk_of(clerk) == desk


def test_a_broken_box_is_an_error_and_no_zero(tmp_path: Path) -> None:
    """The zygote is gone: outcome error, exit 2, and no task is called failed."""
    shutil.copy(REFERENCE, tmp_path / "lora.py")
    with Examiner(LAB) as session:
        assert session.box.process is not None
        while session.box.spare:  # forked before, and as good as ever
            session.box.spare.pop().close()
        session.box.process.kill()
        session.box.process.wait()
        report = session.examine(tmp_path)
    assert report.exit_code == 2
    assert {task.outcome for task in report.tasks} == {"error", "blocked"}
    assert [gate.outcome for gate in report.gates if gate.id == "exam"] == ["error"]


def test_reports_fit_the_schema(examiner: Examiner) -> None:
    """The one schema of grade and exam."""
    import jsonschema

    schema = json.loads((ROOT / "tests/upkeep/report.schema.json").read_text(encoding="utf-8"))
    report = examiner.examine(ROOT / "solutions")
    jsonschema.validate(json.loads(json.dumps(report.to_json())), schema)
    assert report.isolation in ("standard", "authoritative")
