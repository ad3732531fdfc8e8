"""As shipped: the stub is the reference without its answers, and every test fails by itself."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from conftest import UNWRITTEN
from minituner.grading.contract import run_contract
from minituner.grading.registry import ROOT, Lab, given, lab, labs
from minituner.grading.stub import strip, stub

LAB = lab("00")
NAMES = {name for task in LAB.tasks for name in task.tests}
# Tasks whose tests ask for what the code of another task does.
WITHOUT_CODE = {"00": ("C3", "D2", "D3")}
every_lab = pytest.mark.parametrize("lab", labs().values(), ids=lambda lab: lab.id)
EXPRESSIONS = [(one, words) for one in labs().values() for words in one.expressions]


def pytest_here(*args: str) -> subprocess.CompletedProcess[str]:
    """pytest from the repository's root, as a learner types it."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


EACH = """
import json, pytest, sys
for words in json.loads(sys.argv[1]):
    print("collected:", flush=True)
    pytest.main(["-p", "no:cacheprovider", "--collect-only", "-q", *words])
"""


@cache
def selected() -> list[set[str]]:
    """What each lab's expressions select, from the root and from its contract.

    In one process, which has torch loaded once.
    """
    places = [(words, *where) for one, words in EXPRESSIONS for where in ((), (one.contract,))]
    asked = json.dumps([["--device", "cpu", *where, "-k", words] for words, *where in places])
    command = [sys.executable, "-c", EACH, asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    _, *found = done.stdout.split("collected:\n")
    return [{line for line in lines.splitlines() if "::" in line} for lines in found]


@every_lab
def test_stub_is_the_stripped_reference(lab: Lab) -> None:
    """To the byte; a repository whose learner has begun skips this on purpose."""
    shipped = (ROOT / lab.file).read_bytes()
    if b"raise NotImplementedError" not in shipped:
        pytest.skip(f"{lab.file} is not the stub: somebody has solved it here")
    assert shipped == stub(lab).encode()


@every_lab
def test_stub_has_a_raise_for_each_coded_task(lab: Lab) -> None:
    """Each marked region names its task; a few need no code of their own."""
    raised = set(re.findall(r'"(\w\d): ', stub(lab)))
    assert raised == lab.code - set(WITHOUT_CODE.get(lab.id, ()))


def test_strip_can_fail() -> None:
    """A changed answer changes nothing, a changed signature does."""
    reference = (ROOT / LAB.reference).read_text(encoding="utf-8")
    answer = reference.replace("self.scaling * update", "update")
    assert answer != reference
    assert strip(answer, LAB) == stub(LAB)
    assert strip(reference.replace("r: int = 8", "r: int = 4"), LAB) != stub(LAB)


@every_lab
def test_every_contract_test_is_todo(lab: Lab, tmp_path: Path) -> None:
    """One by one, by NotImplementedError, with no error of collection or fixture."""
    path = tmp_path / lab.star
    path.write_text(stub(lab), encoding="utf-8")
    run = run_contract(lab, path, seed=1)
    assert (run.broken, run.unrunnable) == ("", "")
    todo = {name for name, test in run.tests.items() if test.outcome == "todo"}
    assert todo == {name for task in lab.tasks for name in task.tests}


def test_pytest_k_lora_is_red_as_shipped() -> None:
    """The learner's first command: all fail, each in one line, none errors, exit 1."""
    done = pytest_here("-q", "-k", "lora", "--device", "cpu")
    assert done.returncode == 1
    assert f"{len(NAMES)} failed, " in done.stdout.splitlines()[-1]
    lines = re.findall(r"^src\Wminituner\Wlora\.py:\d+: (.*)$", done.stdout, re.MULTILINE)
    assert len(lines) == len(NAMES)
    assert all(re.search(UNWRITTEN, line) for line in lines)
    assert "in test_lora" not in done.stdout


def test_an_error_behind_an_unwritten_step_is_told(tmp_path: Path) -> None:
    """With its traceback; also where the folder one works in is gone."""
    first = '        raise NotImplementedError(\n            "A1'
    assert first in stub(LAB)
    trying = '        try:\n            {}["mine"]\n        finally:\n         '
    behind = trying + first.lstrip()
    gone = "\nimport os, tempfile\nos.chdir(gone := tempfile.mkdtemp())\nos.rmdir(gone)\n"
    path = tmp_path / LAB.star
    path.write_text(stub(LAB).replace(first, behind, 1) + gone, encoding="utf-8")
    done = pytest_here("-q", "-k", "worked_example or wrap_names", f"--impl={path}", LAB.contract)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "KeyError: 'mine'" in done.stdout
    assert re.search(r"lora\.py:\d+: NotImplementedError: B1: ", done.stdout)


@every_lab
def test_only_a_step_not_written_is_told_in_one_line(lab: Lab) -> None:
    """Each raise of the stub, and no other NotImplementedError: that has its traceback."""
    calls = [node for node in ast.walk(ast.parse(stub(lab))) if isinstance(node, ast.Call)]
    raised = [call for call in calls if ast.unparse(call.func) == "NotImplementedError"]
    said = [ast.literal_eval(call.args[0]) for call in raised]
    assert said
    assert all(re.search(UNWRITTEN, f"NotImplementedError: {message}") for message in said)
    for other in ('Module [LoRALinear] is missing the required "forward" function', "A1: later"):
        assert not re.search(UNWRITTEN, f"NotImplementedError: {other}")


def test_pytest_k_lora_is_green_with_the_reference() -> None:
    """The same command on the solution, exit 0."""
    done = pytest_here("-q", "-k", "lora", "--device", "cpu", "--impl", "reference")
    assert (done.returncode, f"{len(NAMES)} passed, " in done.stdout) == (0, True), done.stdout


@pytest.mark.parametrize(("lab", "expression"), EXPRESSIONS, ids=lambda of: getattr(of, "id", None))
def test_its_expressions_select_the_whole_contract(lab: Lab, expression: str) -> None:
    """And nothing else, from the root and from the lab page's own command."""
    expected = {f"{lab.contract}::{name}" for task in lab.tasks for name in task.tests}
    assert len(selected()) == 2 * len(EXPRESSIONS)
    first = 2 * EXPRESSIONS.index((lab, expression))
    for found in selected()[first : first + 2]:
        assert {test.removesuffix("[cpu]") for test in found} == expected


def write(folder: Path, change: str, into: str) -> Path:
    """The reference with one edit, as a file of its own."""
    text = (ROOT / LAB.reference).read_text(encoding="utf-8")
    assert change in text
    path = folder / LAB.star
    path.write_text(text.replace(change, into, 1), encoding="utf-8")
    return path


def test_a_warning_from_compiling_is_no_failure(tmp_path: Path) -> None:
    r"""A \D in a docstring is style, not LoRA."""
    path = write(tmp_path, "Every adapter's A and B", r"Every \D adapter's A and B")
    done = pytest_here("-q", f"--impl={path}", LAB.contract)
    assert done.returncode == 0, done.stdout


def test_a_warning_at_run_time_is_a_failure(tmp_path: Path) -> None:
    """Warnings are errors: a deprecated call in forward does not pass unseen."""
    path = write(
        tmp_path,
        "        out: Tensor = self.base(x)",
        "        import warnings\n\n        warnings.warn('old', stacklevel=1)\n"
        "        out: Tensor = self.base(x)",
    )
    assert pytest_here("-q", "-x", f"--impl={path}", LAB.contract).returncode == 1


def test_probing_devices_never_warns() -> None:
    """A driver that warns while torch looks for it is not the learner's fault."""
    code = (
        "import warnings, torch, conftest; warnings.simplefilter('error')\n"
        "torch.cuda.is_available = lambda: bool(warnings.warn('old driver')) or False\n"
        "assert conftest.devices(None)[0] == 'cpu'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_imports_nothing() -> None:
    """minituner/__init__.py is a docstring: a SyntaxError in a ★ file breaks only that file."""
    tree = ast.parse((ROOT / "src/minituner/__init__.py").read_text(encoding="utf-8"))
    assert [type(node) for node in tree.body] == [ast.Expr]


def test_arrows_point_the_right_way() -> None:
    """Nobody but the contract and the experiments imports a ★ module; given files know no judge."""
    stars = {one.module for one in labs().values()}
    own = {path.name for path in given().values()} | {one.star for one in labs().values()}
    for path in (ROOT / "src/minituner").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        froms = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        plain = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names = froms | plain
        assert not stars & names, path
        if path.parent.name == "minituner" and path.name in own:
            assert not any(name.startswith("minituner.grading") for name in names), path
