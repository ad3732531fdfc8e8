"""Measures every planted bug for diagnosis and writes tests/mutants/*.signs.json: `make signs`.

Each bug is measured twice, with the same questions and other luck for whatever it draws itself: a
number that changes is marked "~", so that it is compared loosely.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import Mutant, mutants, planted
from torch import Tensor

from minituner.grading import behave, diagnose
from minituner.grading.registry import ROOT, Lab, lab, labs

CHECKS = ROOT / "src/minituner/grading/checks"


def table_of(which: Lab) -> Path:
    """Where a lab's measurements stand."""
    return planted(which).with_suffix(".signs.json")


def sources(which: Lab) -> list[Path]:
    """What they depend on: reference, bugs, the lab's checks and what all checks share."""
    others = set(CHECKS.glob("lab[0-9][0-9]*.py")) - set(CHECKS.glob(f"lab{which.id}*.py"))
    checks = set(CHECKS.glob("*.py")) - others
    return sorted([ROOT / which.reference, planted(which), *checks])


class OtherLuck(behave.Here):
    """The same questions, with other numbers for whatever the file draws itself."""

    def send(self, header: dict[str, Any], tensors: list[Tensor]) -> None:
        if header.get("seed") is not None:
            header = header | {"seed": header["seed"] ^ 1}
        super().send(header, tensors)


def measured(which: Lab, source: str) -> Mapping[str, str]:
    """What a source shows where it fails, its lucky numbers blanked."""
    with contextlib.redirect_stdout(io.StringIO()):  # one of the bugs prints
        one, two = (behave.signs(which, source, worker) for worker in (behave.Here, OtherLuck))
    red = {check: steady(sign, two.get(check, "")) for check, sign in one.items() if sign}
    return {check: sign[: diagnose.LONGEST] for check, sign in red.items()}


def steady(one: str, two: str) -> str:
    """The first sign, with a "~" before each number that the second has otherwise."""
    if one == two:
        return one
    words, numbers = diagnose.apart(one)
    other_words, others = diagnose.apart(two)
    if words != other_words:
        return one
    kept = [a if a == b else diagnose.CHANCE + a for a, b in zip(numbers, others, strict=True)]
    parts = words.split("#")
    return "".join(part + number for part, number in zip(parts, [*kept, ""], strict=True))


def digest(which: Lab) -> str:
    """Of everything the table depends on, torch included."""
    whole = hashlib.sha256(torch.__version__.split("+")[0].encode())
    for path in sources(which):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


def table(chosen: Sequence[Mutant]) -> dict[str, Mapping[str, str]]:
    return {mutant.name: measured(mutant.lab, mutant.source()) for mutant in chosen}


def main() -> None:
    torch.set_num_threads(1)
    for which in [lab(one) for one in sys.argv[1:]] or labs().values():
        signs = table(mutants(which))
        rows = {"made_by": "make signs", "digest": digest(which), "signs": signs}
        text = json.dumps(rows, indent=0, ensure_ascii=False)
        table_of(which).write_text(text + "\n", encoding="utf-8")
        sys.stdout.write(f"{table_of(which).name}: {len(signs)} planted bugs\n")


if __name__ == "__main__":
    main()
