"""The notes gate: reads the learner's table, measures again, and names what does not agree.

The measuring is the experiment's own run.py, in a process of its own. Leaves out: the
learner's sentences; predictions are shown beside what was measured, and nobody grades them.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from minituner.grading.child import OnChild, answer
from minituner.grading.registry import ROOT, Lab
from minituner.grading.report import GateResult
from minituner.words import say

MEASURE_SECONDS = 120.0
MERGE_FACTOR = 30.0  # merge_diff is rounding noise: its size is stable, its digits are not
ROW = re.compile(r"^\| *`?(?P<key>\w+)`? *\|[^|\n]*\|(?P<value>[^|\n]*)\|", re.MULTILINE)


def check_notes(
    lab: Lab, star: Path, notes: Path | None, on_child: OnChild = lambda end: None
) -> GateResult:
    """Compare the notes with a fresh measurement of the same file."""
    if notes is None or not notes.is_file():
        return absent(notes or lab.notes)
    try:
        written = read(notes.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        return _failed([say("{path}: cannot be read ({why})", path=notes, why=error)])
    try:
        measured: dict[str, str] = json.loads(_measured(lab, star, on_child).splitlines()[-1])
    except (EOFError, OSError, ValueError, IndexError):
        return _failed([say("{command} gave no values; run it yourself", command=lab.experiment)])
    return judged(lab, written, measured)


def _measured(lab: Lab, star: Path, on_child: OnChild) -> str:
    """What the experiment prints of the file."""
    script, args = str(ROOT / lab.experiment), ("--impl", str(star), "--json")
    main = "minituner.grading.remeasure:main"
    said = answer(main, str(ROOT), script, args, seconds=MEASURE_SECONDS, on_child=on_child)
    return said.decode()


def absent(notes: Path | str) -> GateResult:
    """The gate where there are no notes."""
    return _failed([say("{path}: not found; it is the form to fill in", path=notes)])


def judged(lab: Lab, written: dict[str, str], measured: dict[str, str]) -> GateResult:
    """The gate on what is written, beside what was measured anew."""
    found = compare(lab, written, measured)
    return _failed(found) if found else GateResult("notes", "passed")


def read(text: str) -> dict[str, str]:
    """The last cell of each row whose first cell is a key, blank cells left out."""
    rows = ((m["key"], m["value"].strip().strip("`")) for m in ROW.finditer(text))
    return {key: value for key, value in rows if value}


@dataclass(frozen=True)
class Prediction:
    """What a learner expected, beside what the notes say was measured; "" where nothing stands."""

    task: str
    label: str
    expected: str
    measured: str


def predictions(lab: Lab, text: str) -> list[Prediction]:
    """Every line to predict, in the notes' order of the lab."""
    values, lines = read(text), text.splitlines()
    found = []
    for one in lab.predict:
        start = f"- {one.label.en} · {one.label.es}:"
        expected = next((ln[len(start) :].strip() for ln in lines if ln.startswith(start)), "")
        measured = ", ".join(values[key] for key in one.keys if key in values)
        found.append(Prediction(one.task, str(one.label), expected, measured))
    return found


def predicted(lab: Lab, notes: Path | None) -> list[Prediction]:
    """The same from a file; none where it cannot be read."""
    try:
        return predictions(lab, notes.read_text(encoding="utf-8")) if notes else []
    except (OSError, UnicodeDecodeError):
        return []


def compare(lab: Lab, written: dict[str, str], measured: dict[str, str]) -> list[str]:
    """One line for each value that is missing, stale or not what was measured.

    Each must agree exactly, or within the registry's `within`; `merge_diff` within a factor of 30,
    above 0 and below 1e-5. A file whose merge is exact to the bit may say 0.
    """
    missing = [key for key in measured if key not in written]
    if missing:
        return [say("notes: no value for {keys}; run run.py --write", keys=", ".join(missing))]
    digest = lab.digest_key
    if written[digest] != measured[digest]:
        said = say(
            "notes: stale, {star} has changed since they were written; measure again", star=lab.star
        )
        return [said]
    found = []
    for key, value in measured.items():
        if key == digest:
            continue
        try:
            mine, ours = float(written[key]), float(value)
        except ValueError:
            found.append(say("notes: {key}: not a number: {got}", key=key, got=written[key]))
            continue
        if not _agrees(lab, key, mine, ours):
            found.append(
                say(
                    "notes: {key}: written {got}, measured {value}",
                    key=key,
                    got=written[key],
                    value=value,
                )
            )
    return found


def _agrees(lab: Lab, key: str, mine: float, ours: float) -> bool:
    if key == "merge_diff":
        within = ours / MERGE_FACTOR <= mine <= ours * MERGE_FACTOR
        return mine < 1e-5 and within and (mine > 0 or ours == 0)
    return math.isclose(mine, ours, rel_tol=lab.within.get(key, 0.0))


def _failed(found: list[str]) -> GateResult:
    return GateResult("notes", "failed", tuple(found))
