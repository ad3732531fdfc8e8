"""The gates: every rule of BLUEPRINT.md bites, and honest code in any style passes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from minituner.grading.gates import Source, check_source, intake, without_comments
from minituner.grading.registry import ROOT, Lab, lab, labs
from minituner.grading.report import GateResult
from minituner.grading.tools import advise, check_types

LAB = lab("00")
REFERENCE = (ROOT / LAB.reference).read_text(encoding="utf-8")


def gates(tmp_path: Path, text: str) -> dict[str, GateResult]:
    path = tmp_path / LAB.star
    names = "" if "class LoRALinear" in text else f"\n{' = '.join(LAB.names)} = None\n"
    path.write_text(text + names, encoding="utf-8")
    source = intake(path)
    assert isinstance(source, Source), source
    return {gate.id: gate for gate in check_source(source, LAB)}


def red(tmp_path: Path, text: str) -> dict[str, tuple[str, ...]]:
    return {g.id: g.findings for g in gates(tmp_path, text).values() if g.outcome != "passed"}


def test_the_reference_and_the_stub_pass(tmp_path: Path) -> None:
    """Neither breaks a rule."""
    assert red(tmp_path, REFERENCE) == {}
    assert red(tmp_path, (ROOT / LAB.file).read_text(encoding="utf-8")) == {}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("import os", "os"),
        ("import peft", "peft"),
        ("from peft import LoraConfig", "peft"),
        ("import torch.hub", "torch.hub"),
        ("from torch import hub", "torch.hub"),
        ("from torch.utils import cpp_extension", "torch.utils.cpp_extension"),
        ("from minituner import grading", "minituner.grading"),
        ("from minituner.grading.registry import lab", "minituner.grading.registry"),
        ("from . import words", "minituner.words"),
        ("from .. import solutions", ".."),
        ("import collections", "collections"),
        ("x = exec", "exec"),
        ("eval('1')", "eval"),
        ("compile('1', '', 'eval')", "compile"),
        ("__import__('os')", "__import__"),
        ("open('/etc/passwd')", "open"),
        ("breakpoint()", "breakpoint"),
        ("__builtins__", "__builtins__"),
        ("(lambda: 0).__globals__", "__globals__"),
        ("().__class__.__base__.__subclasses__()", "__subclasses__"),
        ("getattr(torch, '__builtins__')", "dunder"),
        ("getattr(torch, '__buil' + 'tins__')", "dunder"),
        ("getattr(torch, f'__{1}__')", "dunder"),
    ],
)
def test_unsafe_imports_and_calls_refuse_the_file(tmp_path: Path, line: str, named: str) -> None:
    """No code task is paid, and the message has the line and the name."""
    gate = gates(tmp_path, f"import torch\n{line}\n")["source"]
    assert (gate.outcome, gate.costs) == ("failed", ("*",))
    assert any("line 2" in finding and named in finding for finding in gate.findings)


@pytest.mark.parametrize(
    "line",
    [
        "from minituner.minigpt import MiniGPT",
        "from minituner import minigpt",
        "from .minigpt import MiniGPT",
        "from collections import abc",
        "from collections.abc import Iterator",
        "import torch.nn.functional as F",
        "from torch.nn.parameter import Parameter",
        "import dataclasses, math, typing",
        "def forward(input: int) -> int:\n    return input",
        "model = torch.nn.Linear(2, 2).eval()",
        "setattr(torch.nn.Module(), 'q_proj', torch.nn.Linear(2, 2))",
        "child = 'q'; getattr(torch.nn.Module(), child, None)",
        "f = torch.compile",
        "class A:\n    def __init__(self) -> None: self.__class__.__name__",
    ],
)
def test_honest_lines_pass(tmp_path: Path, line: str) -> None:
    """What people write in good faith is not refused."""
    assert red(tmp_path, f"import torch\n{line}\n") == {}


@pytest.mark.parametrize(
    "line",
    [
        "from typing import Any",
        "from typing import cast as c",
        "from typing import TYPE_CHECKING",
        "from typing import no_type_check",
        "import typing; x: typing.Any = 1",
        "MYPY = False\nif MYPY: pass",
        "x = 1  # type: ignore",
        "x = 1  # type: ignore[assignment]",
        "# mypy: ignore-errors",
        "#mypy: disable-error-code=assignment",
        "# pyright: basic",
    ],
)
def test_switching_the_checker_off_costs_the_types_task(tmp_path: Path, line: str) -> None:
    """And nothing else: the code tasks are still paid."""
    found = gates(tmp_path, f"{line}\n")
    assert found["checkers"].outcome == "failed"
    assert found["checkers"].costs == ("S2",)
    assert found["source"].outcome == "passed"


def test_the_words_in_a_string_are_no_switch(tmp_path: Path) -> None:
    """A docstring may speak of `# type: ignore`."""
    assert red(tmp_path, '"""We never write # type: ignore or use Any here."""\n') == {}


@pytest.mark.parametrize(
    "line",
    [
        "self.a = nn.Linear(base.in_features, r, bias=False)",
        "self.b = torch.nn.Linear(self.r, base.out_features)",
        "self.a = nn.Linear(in_features=8, out_features=rank)",
    ],
)
def test_a_linear_as_a_factor_costs_its_task(tmp_path: Path, line: str) -> None:
    """nn.Linear sized by the rank costs A2; a fresh base for merge_ costs nothing."""
    gate = gates(tmp_path, line)["parameters"]
    assert (gate.outcome, gate.costs) == ("failed", ("A2",))
    assert red(tmp_path, "nn.Linear(base.in_features, base.out_features)") == {}
    renamed = "from torch.nn import Linear as L\nx = L(8, r)\n"
    assert "parameters" in red(tmp_path, renamed)


def test_a_linear_of_that_size_is_no_factor_in_another_lab(tmp_path: Path) -> None:
    """Where the learner writes no adapter, a linear sized by a rank is just a linear."""
    later = lab("01")
    path = tmp_path / later.star
    defined = f"{' = '.join(later.names)} = None\n"
    path.write_text(f"from torch import nn\n{defined}probe = nn.Linear(8, r)\n", encoding="utf-8")
    source = intake(path)
    assert isinstance(source, Source), source
    assert {gate.outcome for gate in check_source(source, later)} == {"passed"}


@pytest.mark.parametrize("which", list(labs().values()), ids=lambda which: which.id)
def test_every_reference_and_stub_passes(which: Lab) -> None:
    """In its own lab, neither breaks a rule."""
    for path in (which.reference, which.file):
        source = intake(ROOT / path)
        assert isinstance(source, Source), source
        assert {gate.outcome for gate in check_source(source, which)} == {"passed"}, path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("class LoRALinear", "class LoraLinear", "is it LoraLinear, line 19?"),
        ("def lora_state_dict", "def state_of", "expected lora_state_dict"),
    ],
)
def test_a_missing_name_is_told_with_its_nearest(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    """A mistyped name refuses the file before anything runs, and shows what stands there."""
    text = REFERENCE.replace(old, new) + "\n# class LoRALinear\n"
    found = red(tmp_path, text)["source"]
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"x = 1\n" * 11_000, "65536 bytes, got 66000"),
        (b"x = '\xff'\n", "UTF-8, got a bad byte at 5"),
    ],
)
def test_intake_refuses_in_one_line(tmp_path: Path, raw: bytes, said: str) -> None:
    """What, expected, got."""
    path = tmp_path / LAB.star
    path.write_bytes(raw)
    refusal = intake(path)
    assert isinstance(refusal, str)
    assert said in refusal


@pytest.mark.parametrize("text", ["def f(:\n", "x = 1\x00\n", "(" * 5000, "-" * 60_000 + "1"])
def test_what_cannot_be_parsed_is_the_learners(tmp_path: Path, text: str) -> None:
    """A broken file is refused with its reason, whatever breaks the parser."""
    gate = gates(tmp_path, text)["source"]
    assert (gate.outcome, gate.costs) == ("failed", ("*",))
    assert LAB.star in gate.findings[0]


def test_blanking_comments_keeps_every_line_and_string() -> None:
    """Same number of lines, same tree, no comment left, strings untouched."""
    import ast

    text = "x = '# kept'  # gone\n# gone too\ny = 1\r\nz = '''\n# kept\n'''\n"
    blank = without_comments(text)
    assert "gone" not in blank
    assert blank.count("# kept") == 2
    assert ast.dump(ast.parse(blank)) == ast.dump(ast.parse(text))
    assert [len(part.splitlines()) for part in (blank, text)] == [6, 6]


def test_mypy_cannot_be_talked_round(tmp_path: Path) -> None:
    """A wrong type is found, also under comments that would hide it; a clean file passes."""
    path = tmp_path / LAB.star
    hidden = "# mypy: ignore-errors\nx: int = 'a'  # type: ignore\n"
    gate = check_types(path, hidden)
    assert gate.outcome == "failed"
    assert "lora.py:2" in gate.findings[0]
    assert check_types(path, "x: int = 1\n").outcome == "passed"


def test_two_files_of_one_second_and_size_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """mypy's cache holds a file by its second and its size; one must not get another's answer."""
    write = Path.write_text

    def written(path: Path, text: str, encoding: str = "utf-8") -> int:
        count = write(path, text, encoding)
        os.utime(path, (0, 0))  # as if all were written in the same second
        return count

    monkeypatch.setattr(Path, "write_text", written)
    for right, outcome in (("int = 1 ", "passed"), ("int = ''", "failed"), ("str = ''", "passed")):
        assert check_types(Path(LAB.star), f"x: {right}\n").outcome == outcome, right


def test_ruff_advises_and_costs_nothing(tmp_path: Path) -> None:
    """An unused import is named, and the outcome is still passed."""
    path = tmp_path / LAB.star
    path.write_text("import math  # noqa\n", encoding="utf-8")
    gate = advise(path)
    assert (gate.outcome, gate.costs) == ("passed", ())
    assert "lora.py:1 F401" in gate.findings[0]
