"""The clerk: the gates of `grade` on texts that nobody should have to read, and mypy kept warm."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import pytest
from harness import LAB, REFERENCE, variants
from processes import children, desk_of
from sessions import Sessions

from minituner.grading.clerk import Clerk, NoClerk
from minituner.grading.gates import check_source
from minituner.grading.report import GateResult
from minituner.grading.tools import check_types, parse

pytest_plugins = ["shared"]
TEXT = REFERENCE.read_text(encoding="utf-8")
STAR = Path(LAB.star)
NAMES = f"\n{' = '.join(LAB.names)} = 0\n"
UNTYPED = "def f(x):\n    return x\n"
WRONG = [
    "x: int = 'a'\n",
    "import torch\nx: int = torch.ones(2)\n",
    "from torch import Tensor, nn\ndef f(m: nn.Linear, x: Tensor) -> Tensor:\n    return m(x)\n",
    UNTYPED,
    "from minituner.minigpt import MiniGPT, nothing\nMiniGPT().no_such\n",
    "import torch.nothing_like_it\nreveal_type(torch)\nx: int = torch.ones(2)\n",
    "import torch.nn.utils.prune as p\nx: int = p.is_pruned('m')\np.nothing\n",  # not in memory
    "import minituner\nminituner.minigpt.MiniGPT\n",  # in memory, but not imported here
    "class A:\n    pass\nx: list = []\nA().y = undefined\n",
    "def f(a: int, a: int) -> None: ...\n",  # mypy goes no further than this line
    "x = 1  # type: str\n# mypy: ignore-errors\nreveal_type(x + '')\n",
    TEXT.replace("out: Tensor = self.base(x)", "out = self.base(x)"),
    TEXT.replace("-> list[str]", "-> int"),
]


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINITUNER_LANG", "en")


@pytest.fixture
def clerk(sessions: Sessions) -> Clerk:
    assert sessions.clerk.prepare(LAB) == "", "mypy is not warm"
    return sessions.clerk


def test_the_review_is_that_of_grade(clerk: Clerk) -> None:
    """The same gates with the same findings, and ruff's advice."""
    found = clerk.review(LAB, TEXT)
    assert {name: gate.outcome for name, gate in found.items()} == dict.fromkeys(
        ("source", "checkers", "parameters", "ruff"), "passed"
    )
    text = f"import math, os\nfrom typing import Any\nx = nn.Linear(2, r)  # type: ignore\n{NAMES}"
    found = clerk.review(LAB, text)
    assert tuple(found.values()) == check_source(parse(text, LAB.star), LAB)
    assert [gate.outcome for gate in found.values()] == ["failed"] * 3
    advice = clerk.review(LAB, "import math  # noqa\n" + NAMES)["ruff"]
    assert "lora.py:1 F401" in advice.findings[0]


@pytest.mark.parametrize("path", variants(), ids=[path.parent.name for path in variants()])
def test_warm_types_are_those_of_mypy_on_other_styles(clerk: Clerk, path: Path) -> None:
    """Right answers in any style: no finding; test_variants asks the command for the same."""
    assert clerk.types(LAB, path.read_text(encoding="utf-8")) == GateResult("types", "passed")


@pytest.mark.parametrize("text", WRONG)
def test_warm_types_are_those_of_mypy_on_wrong_types(clerk: Clerk, text: str) -> None:
    """The same lines, in the same order, to the letter; also for a module that is not in memory."""
    gate = clerk.types(LAB, text)
    assert gate == check_types(STAR, text)
    assert gate.outcome == "failed"
    assert all(line.startswith("lora.py:") and ": error: " in line for line in gate.findings)


# What mypy --strict lets pass although a wrong type stands there.
EVASIONS = [
    "from typing import Any\ny: Any = 'a'\nx: int = y",
    "from typing import cast as c\nx: int = c(int, 'a')",
    "import typing as t\nx: int = t.cast(int, 'a')",
    "import typing as t\ny: t.Any = 'a'\nx: int = y",
    "import typing as t\ny: 't.Any' = 'a'\nx: int = y",
    "import typing as t\ny: list['t . Any'] = ['a']\nx: list[int] = y",
    "import typing as t\ny: 't' '.Any' = 'a'\nx: int = y",
    "from typing import *\ny: 'Any' = 'a'\nx: int = y",
    "import typing as t\nif not t.TYPE_CHECKING:\n    x: int = 'a'",
    "TYPE_CHECKING = False\nif not TYPE_CHECKING:\n    x: int = 'a'",
    "def f(TYPE_CHECKING: bool) -> None:\n    if not TYPE_CHECKING:\n        x: int = 'a'",
    "MYPY = False\nif MYPY:\n    pass\nelse:\n    x: int = 'a'",
    "PY2 = True\nif PY2:\n    x: int = 'a'",
    "class O:\n    PY3 = False\nif not O.PY3:\n    x: int = 'a'",
    "class sys:\n    platform = 'win32'\nif sys.platform == 'win32':\n    x: int = 'a'",
    "class sys:\n    version_info = (2, 7)\nif sys.version_info < (3,):\n    x: int = 'a'",
    "class sys:\n    version_info = (2, 7)\nif sys.version_info[0] == 2:\n    x: int = 'a'",
    "from typing import no_type_check\n@no_type_check\ndef f() -> None:\n    x: int = 'a'",
    "from typing import NoReturn as N\nfrom collections.abc import Callable as C\n"
    "die: C[[], N] = getattr(C, 'x')\ndie()\nx: int = 'a'",
    "from typing import NoReturn\nfrom collections.abc import Callable as C\n"
    "die: 'C[[], NoReturn]' = getattr(C, 'x')\ndie()\nx: int = 'a'",
]
SEEN = [  # comments, or strings that mypy takes for them: it sees the wrong type all the same
    "# type: ignore\nx: int = 'a'",
    "# mypy: ignore-errors\nx: int = 'a'",
    "'''\n# mypy: ignore-errors\n'''\nx: int = 'a'",
    "y = 1 # a\r# type: ignore\rx: int = 'a'",
    "y = '\x0c\u2028\x1c'\nx: int = 'a'  # type: ignore",
    "x: int = 'a'  # type: ignore\r\ny = 1\r\n",
    "import typing\n@getattr(typing, 'no_type' + '_check')\ndef f() -> None:\n    x: int = 'a'",
    "from torch.nn.modules.module import Any\ny: Any = 'a'\nx: int = y",
]


@pytest.mark.parametrize("text", EVASIONS)
def test_what_mypy_lets_pass_a_gate_does_not(clerk: Clerk, text: str) -> None:
    """Each costs the mypy task and nothing else; without the gate it would be paid."""
    assert clerk.types(LAB, text + "\n").outcome == "passed"
    found = clerk.review(LAB, text + NAMES)
    assert (found["checkers"].outcome, found["checkers"].costs) == ("failed", ("S2",))
    assert found["source"].outcome == "passed"


@pytest.mark.parametrize("text", SEEN)
def test_no_comment_hides_a_type(clerk: Clerk, text: str) -> None:
    """Whatever ends a line for one reader and not for the other."""
    gate = clerk.types(LAB, text)
    assert gate.outcome == "failed"
    assert gate == check_types(STAR, text)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("torch.os.getcwd()", "os"),
        ("torch.nn.modules.module.functools.sys", "sys"),
        ("from torch import os", "torch.os"),
        ("from torch.utils.data import os as o", "torch.utils.data.os"),
        ("match torch:\n    case object(__builtins__=b): pass", "__builtins__"),
        ("name = '__globals__'", "__globals__"),
        ("'{0.__globals__}'.format(torch)", "__globals__"),
        ("getattr(torch, '_' * 2 + 'builtins' + '_' * 2)", "dunder"),
    ],
)
def test_hidden_ways_inside_refuse_the_file(clerk: Clerk, line: str, named: str) -> None:
    """The standard library through torch, and the names of Python's inside in quotes."""
    found = clerk.review(LAB, f"import torch\n{line}\n{NAMES}")["source"]
    assert (found.outcome, found.costs) == ("failed", ("*",))
    assert all("2: " in said or "3: " in said for said in found.findings)
    assert named in found.findings[0]


def test_honest_neighbours_pass(clerk: Clerk) -> None:
    """Names that look like the refused ones, used as one would."""
    text = f'''import torch
from typing import NoReturn
class A(torch.nn.Module):
    sys: int
    def fail(self) -> NoReturn:
        """No __globals__ here, and no typing.Any."""
        raise ValueError("Never", "cast", "PY2")
    def name(self, x: str) -> str:
        setattr(self, "lora_" + x, getattr(self, f"_{{x}}_old", None))
        return "_".join((x, type(self).__name__, str(self.sys), "__main__"))
{NAMES}'''
    assert {gate.outcome for gate in clerk.review(LAB, text).values()} == {"passed"}


def test_nothing_is_left_for_the_next(clerk: Clerk) -> None:
    """Right, wrong, right: a text is judged by itself, and no child outlives its answer."""
    for _ in range(3):
        assert clerk.types(LAB, TEXT).outcome == "passed"
        assert clerk.types(LAB, WRONG[0] + "class Tensor: ...\n").outcome == "failed"
        assert clerk.types(LAB, "Tensor()\n").findings[0].startswith("lora.py:1: error: Name")
    assert children(desk_of(clerk)) == []


@pytest.mark.parametrize(
    "text",
    [
        "(" * 60_000,
        "-" * 60_000 + "1",
        "x = " + "a." * 30_000 + "a",
        "x = " + "1+" * 30_000 + "1",
        "x: '" + "-" * 60_000 + "1' = 1",
        "x: '" + "a." * 400 + "a' = 1",
        "x = " + "[" * 90 + "lambda: " * 150 + "1" + "]" * 90,
        "if x: pass\n" + "elif x: pass\n" * 1000,
    ],
)
def test_a_deep_tree_is_refused(clerk: Clerk, text: str) -> None:
    """Never a crash, never `error`: the source gate names the file, and mypy does not meet it."""
    found = clerk.review(LAB, text + "\n" + NAMES)
    assert found.keys() == {"source"}
    assert (found["source"].outcome, found["source"].costs) == ("failed", ("*",))
    assert LAB.star in found["source"].findings[0]
    assert clerk.types(LAB, text).outcome == "failed"


def test_without_warm_mypy_the_disk_cache_answers(clerk: Clerk) -> None:
    """Asked for, or because mypy's inside is another: the same findings."""
    with Clerk(warm=False) as cold:
        assert cold.prepare(LAB) == "asked"
        assert cold.types(LAB, UNTYPED) == clerk.types(LAB, UNTYPED)
        assert cold.types(LAB, TEXT).outcome == "passed"


def test_it_says_that_it_needs_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the caller is told, before anything is started."""
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with Clerk() as clerk, pytest.raises(NoClerk, match="needs Linux, got Darwin"):
        clerk.review(LAB, TEXT)


def test_it_speaks_the_callers_language(clerk: Clerk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One desk, two languages: each question carries its own."""
    monkeypatch.setenv("MINITUNER_LANG", "es")
    assert "no se permite" in clerk.review(LAB, "exec('')" + NAMES)["source"].findings[0]
    monkeypatch.setenv("MINITUNER_LANG", "en")
    assert "not allowed" in clerk.review(LAB, "exec('')" + NAMES)["source"].findings[0]


def test_warm_is_faster_than_the_command(clerk: Clerk) -> None:
    """Side by side, so that a busy machine slows both: at least three times, mypy's start apart."""
    warm, command = [], []
    for _ in range(3):
        started = time.perf_counter()
        clerk.types(LAB, TEXT)
        warm.append(time.perf_counter() - started)
        started = time.perf_counter()
        check_types(STAR, TEXT)
        command.append(time.perf_counter() - started)
    assert 3 * min(warm) < min(command), (warm, command)  # each at its least disturbed
