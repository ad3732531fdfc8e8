"""A right answer refused is as bad as a wrong one accepted: other people's styles, all green."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from harness import LAB, REFERENCE, draw_seeds, lab_of, run_seeds, variants

from minituner.grading.gates import Source, check_source, intake
from minituner.grading.registry import ROOT, Lab, labs
from minituner.grading.report import GateResult
from minituner.grading.tools import MYPY_FLAGS, MYPY_PATH, types_gate, without_comments

LEAST = {"00": 12}  # a later lab: 6
STYLES = [path for which in labs().values() for path in variants(which)]
ids = [f"{path.stem}-{path.parent.name}" for path in STYLES]
every_lab = pytest.mark.parametrize("lab", labs().values(), ids=lambda lab: lab.id)


@every_lab
def test_there_are_enough(lab: Lab) -> None:
    """Styles of several people."""
    assert len(variants(lab)) >= LEAST.get(lab.id, 6)


@pytest.mark.seeds
@pytest.mark.parametrize("path", STYLES, ids=ids)
def test_it_passes_the_contract(path: Path) -> None:
    """Every test, on twenty seeds."""
    seeds = draw_seeds(least=20)
    assert run_seeds(path, seeds) == {seed: {} for seed in seeds}


def typed(texts: Mapping[str, str]) -> dict[str, GateResult]:
    """The types gate on each text, in one mypy run: reading torch's types takes it seconds."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            (Path(folder) / f"{name}.py").write_text(without_comments(text), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mypy", *MYPY_FLAGS, *(f"{name}.py" for name in texts)],
            cwd=folder,
            env=os.environ | {"MYPYPATH": MYPY_PATH},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert done.stderr == ""
    told = done.stdout.splitlines()
    mine = {name: [line for line in told if line.startswith(f"{name}.py:")] for name in texts}
    assert sum(map(len, mine.values())) == len(told), done.stdout
    return {name: types_gate(lines) for name, lines in mine.items()}


@cache
def types() -> dict[str, GateResult]:
    """Every style's types, and those of a file that has one wrong."""
    wrong = REFERENCE.read_text(encoding="utf-8").replace("return list(found)", "return found")
    texts = {f"{path.stem}_{path.parent.name}": path.read_text("utf-8") for path in STYLES}
    return typed(texts | {"wrong": wrong})


@pytest.mark.long(40)
@pytest.mark.parametrize("path", STYLES, ids=ids)
def test_it_passes_the_gates(path: Path) -> None:
    """Imports, names, checkers, bare Parameters, and mypy --strict."""
    source = intake(path)
    assert isinstance(source, Source)
    found = [gate for gate in check_source(source, lab_of(path)) if gate.outcome != "passed"]
    assert found == []
    gate = types()[f"{path.stem}_{path.parent.name}"]
    assert (gate.outcome, gate.findings) == ("passed", ())


@pytest.mark.long(40)
def test_a_wrong_type_is_seen_in_its_own_file() -> None:
    """Among all the others, so that their green means something."""
    assert types()["wrong"].outcome == "failed"
    assert "Incompatible return value type" in types()["wrong"].findings[0]


@pytest.mark.seeds
@pytest.mark.long(10)
@every_lab
def test_the_reference_passes_fifty_seeds(lab: Lab) -> None:
    """Fifty runs with different seeds and shuffles, all green."""
    seeds = draw_seeds(least=50)
    assert run_seeds(ROOT / lab.reference, seeds) == {seed: {} for seed in seeds}


def test_a_wrong_answer_is_red_on_every_seed(tmp_path: Path) -> None:
    """The same runner sees a wrong scale, and each seed's values, whatever ran before."""
    path = tmp_path / LAB.star
    text = REFERENCE.read_text(encoding="utf-8")
    path.write_text(text.replace("out + self.scaling * update", "out + update"), encoding="utf-8")
    seeds = list(range(8))
    found, back = run_seeds(path, seeds), run_seeds(path, seeds[::-1])
    assert all(found.values())
    assert len({str(red) for red in found.values()}) == len(seeds)
    between = seeds[1:-1]  # the first of a run is told in other words
    assert [found[seed] for seed in between] == [back[seed] for seed in between]


def warning(folder: Path, lab_id: str, message: str) -> Path:
    """The lab's reference, which warns in a place that many of its tests come through."""
    one, line = labs()[lab_id], {"00": "return out + self.scaling * update", "02": "seq = max("}
    text = (ROOT / one.reference).read_text(encoding="utf-8")
    (indent,) = re.findall(rf"^( +){re.escape(line[lab_id])}", text, re.MULTILINE)
    warns = f"warnings.warn({message!r})\n{indent}{line[lab_id]}"
    text = text.replace("import math", "import math\nimport warnings", 1)
    (folder / one.star).write_text(text.replace(line[lab_id], warns), encoding="utf-8")
    return folder / one.star


@pytest.mark.parametrize("lab_id", ["00", "02"])
def test_a_warning_is_red_on_every_seed(lab_id: str, tmp_path: Path) -> None:
    """Also where the runner calls a test without pytest around it; lab 02 lets another one pass."""
    found = run_seeds(warning(tmp_path, lab_id, "odd"), [1, 2, 3])
    assert all("odd" in str(red) for red in found.values())
    assert len({frozenset(red) for red in found.values()}) == 1


def test_a_warning_that_a_contract_lets_pass_is_green_on_every_seed(tmp_path: Path) -> None:
    """Lab 02 does: of a loss that is read by float()."""
    let = "Converting a tensor with requires_grad=True to a scalar"
    assert run_seeds(warning(tmp_path, "02", let), [1, 2, 3]) == {1: {}, 2: {}, 3: {}}


@pytest.mark.parametrize(("said", "count"), [("", 20), ("0", 20), ("1", 20), ("50", 50)])
def test_the_environment_only_adds_seeds(
    said: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is exported by accident takes no seed from `make test`."""
    monkeypatch.setenv("MINITUNER_SEEDS", said)
    assert len(set(draw_seeds(least=20))) == count
