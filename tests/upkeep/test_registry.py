"""Registry, tests, headings, hints and mutants agree; no stray file stands in a mirrored folder."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from textwrap import dedent

import pytest
from harness import mutants

from minituner.grading.registry import ROOT, Lab, RegistryError, labs
from minituner.grading.registry import lab as find

LABS = list(labs().values())
FAMILIES = ("init_identity", "param_count", "freeze", "roundtrip", "merge")


def claims_of(lab: Lab) -> Iterator[tuple[str, str, str]]:
    """(name, task, docstring) of each test in the lab's contract, read and not run."""
    tree = ast.parse((ROOT / lab.contract).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = [ast.unparse(decorator) for decorator in node.decorator_list]
            tasks = [m[1] for mark in marks if (m := re.search(r"task\('(\w+)'\)", mark))]
            assert len(tasks) == 1, f"{node.name}: expected one task mark, got {marks}"
            yield node.name, tasks[0], ast.get_docstring(node) or ""


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.id)
def test_points_sum_to_100(lab: Lab) -> None:
    """Every lab is worth 100 points, every task at least one."""
    assert sum(task.points for task in lab.tasks) == 100
    assert min(task.points for task in lab.tasks) >= 1


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.id)
def test_tests_and_tasks_agree(lab: Lab) -> None:
    """Each test is listed once, under the task it is marked with, and has a one-sentence claim."""
    marked = {name: task for name, task, _ in claims_of(lab)}
    assert marked == lab.task_of()
    assert sum(len(task.tests) for task in lab.tasks) == len(marked)
    for name, _, claim in claims_of(lab):
        assert claim.endswith((".", "].")), f"{name}: its docstring is its public claim"
        assert "\n" not in claim, f"{name}: one sentence"


def test_lab_00_has_enough_and_names_them_by_family() -> None:
    """At least 30 tests, test_lora_<family>_<claim>, every family used."""
    names = [name for name, _, _ in claims_of(find("00"))]
    assert len(names) >= 30
    for name in names:
        assert name.removeprefix("test_lora_").startswith(FAMILIES), name
    for family in FAMILIES:
        assert any(name.startswith(f"test_lora_{family}_") for name in names), family


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.id)
def test_needs_come_first(lab: Lab) -> None:
    """A task needs only tasks of its lab, never itself, and none in a circle."""
    order = {task.id: task for task in lab.tasks}

    def above(task_id: str, path: tuple[str, ...] = ()) -> None:
        assert task_id not in path, f"a circle: {(*path, task_id)}"
        for need in order[task_id].needs:
            above(need, (*path, task_id))

    for task_id in order:
        above(task_id)
    seen: set[str] = set()
    for task in lab.tasks:  # judge() reads them in this order
        assert set(task.needs) <= seen, f"{task.id} stands before {set(task.needs) - seen}"
        seen.add(task.id)


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.id)
def test_hints_are_three_and_not_empty(lab: Lab) -> None:
    """A question, a pointer, a near-solution; only the first must be a question."""
    for task in lab.tasks:
        assert len(task.hints) == 3, task.id
        for hint in task.hints:
            assert hint.en.strip() and hint.es.strip(), task.id
        assert "?" in task.hints[0].en and "¿" in task.hints[0].es, task.id


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.id)
def test_pages_have_a_heading_a_task_and_a_pitfall(lab: Lab) -> None:
    """The lab page has each task under its registry title, and each pitfall a task cites."""
    for page, tongue in ((lab.page, "en"), (lab.page.replace(".md", ".es.md"), "es")):
        text = (ROOT / page).read_text(encoding="utf-8")
        for task in lab.tasks:
            title = getattr(task.title, tongue)
            heading = rf"^### {task.id} · `?{re.escape(title)}`?$"
            assert re.search(heading, text, re.M), f"{page}: no heading '### {task.id} · {title}'"
            assert re.search(rf"^### {task.pitfall} · ", text, re.M), f"{page}: {task.pitfall}"


def selects(expression: str, name: str) -> bool:
    """pytest's own -k rule for a test's name: words are substrings, joined by and, or, not."""
    words = re.sub(r"\b(?!(?:and|or|not)\b)\w+", lambda m: repr(m[0] in name), expression)
    return bool(eval(words))  # True, False, and, or, not and parentheses only


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.id)
def test_the_pages_commands_select_their_tasks_tests(lab: Lab) -> None:
    """Each task's `pytest -k …` line selects exactly the tests that pay for it, in both faces."""
    for page in (lab.page, lab.page.replace(".md", ".es.md")):
        text = (ROOT / page).read_text(encoding="utf-8")
        parts = re.split(r"^### (\w\d) · ", text, flags=re.M)
        shown = dict(zip(parts[1::2], parts[2::2], strict=True))
        for task in lab.tasks:
            if task.kind == "code":
                line = re.search(r'pytest -k (?:"(.+?)"|(\w+))`', shown[task.id])
                assert line is not None, f"{page}: {task.id} shows no command"
                expression = line[1] or line[2]
                got = {name for name in lab.task_of() if selects(expression, name)}
                assert got == set(task.tests), f"{page}: {task.id}: {got ^ set(task.tests)}"


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.id)
def test_files_exist(lab: Lab) -> None:
    """Everything the registry names is there."""
    paths = [lab.file, lab.contract, lab.page, lab.blueprint, lab.experiment, lab.notes]
    for path in (*paths, lab.reference, *lab.reading):
        assert (ROOT / path).is_file(), path


def test_no_stray_file_in_the_mirrored_folders() -> None:
    """lab/, solutions/ and tests/mutants/ hold what the registry implies, and nothing else."""
    stems = [f"{lab.id}-{lab.slug}" for lab in LABS]
    lab_pages = {f"{stem}{tongue}.md" for stem in stems for tongue in ("", ".es")}
    assert {p.name for p in (ROOT / "lab").iterdir()} == lab_pages | {"labs.toml"}
    answers = {lab.star for lab in LABS} | {lab.notes_flat for lab in LABS}
    answers |= {f"{stem}-ref{tongue}.md" for stem in stems for tongue in ("", ".es")}
    present = {p.name for p in (ROOT / "solutions").iterdir() if not p.name.startswith(("_", "."))}
    assert present == answers | {"README.md", "README.es.md"}
    assert {p.name for p in (ROOT / "tests/mutants").iterdir()} == {
        lab.star.replace(".py", kind) for lab in LABS for kind in (".toml", ".signs.json")
    }


def test_the_reference_page_shows_the_reference() -> None:
    """Each marked region stands in the -ref.md pages under its task, to the letter."""
    for lab in LABS:
        source = (ROOT / lab.reference).read_text(encoding="utf-8")
        regions = re.findall(
            r"^ *# BEGIN SOLUTION (\w+)\n(.*?)^ *# END SOLUTION", source, re.M | re.S
        )
        for tongue in ("", ".es"):
            page = ROOT / f"solutions/{lab.id}-{lab.slug}-ref{tongue}.md"
            parts = re.split(r"^### (\w+) · .*$", page.read_text(encoding="utf-8"), flags=re.M)
            shown = dict(zip(parts[1::2], parts[2::2], strict=True))
            for task, body in regions:
                block = f"```python\n{dedent(body)}```"
                assert block in shown[task], f"{page.name}: {task} is not the reference's code"


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.id)
def test_mutants_name_tasks_of_the_registry(lab: Lab) -> None:
    """killed_by is a task with tests, and every task with tests has a mutant."""
    paid = {task.id for task in lab.tasks if task.tests}
    assert {mutant.killed_by for mutant in mutants(lab)} == paid


@pytest.mark.parametrize("lab", LABS[1:], ids=lambda lab: lab.id)
def test_later_labs_have_enough_and_stay_out_of_lab_00s_expressions(lab: Lab) -> None:
    """At least 30 tests, test_<star>_<claim>, none of them selected by an expression of lab 00."""
    names = [name for name, _, _ in claims_of(lab)]
    assert len(names) >= 30
    stem = lab.star.removesuffix(".py")
    for name in names:
        assert name.startswith(f"test_{stem}_"), name
        assert not any(selects(expression, name) for expression in LABS[0].expressions), name


def test_an_unknown_lab_is_one_clear_line() -> None:
    """The message says what was expected and what it got."""
    with pytest.raises(RegistryError, match=r"--lab: expected one of 00.*got 99"):
        find("99")
