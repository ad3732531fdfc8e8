"""watch in a real terminal: a learner's first hour, what goes wrong, and what it leaves behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import LAB, REFERENCE, mutants
from readme_output import fresh_clone
from terminal import Terminal, none_running, running

from minituner.grading.contract import TEST_SECONDS

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="no pty"), pytest.mark.long(20)]
BLOCKS = {"B": ("B1", "B2", "B3"), "C": ("C1", "C2"), "D": ("D1",)}
SOURCE = REFERENCE.read_text(encoding="utf-8")
ENDLESS = SOURCE.replace("out: Tensor =", "while True: pass\n        out: Tensor =")
# The same, but it leaves the processor to the other tests.
WAITS = ENDLESS.replace("True: pass", "True: torch.futures.Future().wait()")
BUGS = {mutant.name: mutant for mutant in mutants()}


def unwritten(text: str, *blocks: str) -> str:
    """The source with the tasks of these blocks as the stub has them."""
    for task in (task for block in blocks for task in BLOCKS[block]):
        begin = text.index(f"# BEGIN SOLUTION {task}\n")
        end = text.index("# END SOLUTION", begin)
        todo = f'raise NotImplementedError("{task}: later")'
        indent = " " * (begin - text.rindex("\n", 0, begin) - 1)
        text = f"{text[:begin]}{todo}\n{indent}{text[end:]}"
    return text


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A learner's, as it is shipped, with mypy's cache."""
    fresh_clone(tmp_path)
    return tmp_path


@pytest.fixture
def mark() -> Iterator[str]:
    """In the environment of everything a test starts: after it, none of that may run."""
    name = f"watched-{uuid.uuid4().hex}"
    yield name
    assert none_running(name), running(name)


def at(clone: Path, mark: str, *, language: str = "en", **more: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    env |= {"PYTHONPATH": str(clone / "src"), "TERM": "xterm-256color", "MARK": mark}
    return env | {"MINITUNER_LANG": language, "COLUMNS": "", "LINES": ""} | more


def watch(clone: Path, mark: str, *options: str, language: str = "en", **more: str) -> Terminal:
    command = [sys.executable, "-m", "minituner", "watch", *options]
    return Terminal(command, env=at(clone, mark, language=language, **more), cwd=clone)


def test_a_first_hour(clone: Path, mark: str) -> None:
    """Start, write block A, see B next; three bugs, each named; a hint; all tasks; quit."""
    star = clone / LAB.file
    with watch(clone, mark) as terminal:
        terminal.until("0/100", "A1 · check the arguments", "q", "mypy")
        star.write_text(unwritten(SOURCE, "B", "C", "D"), encoding="utf-8")
        terminal.until("A Identity at init ✓ ✓ ✓ ✓ ✓ ✓", "40/40", "B1 · find the linears")
        for name in ("scale-forgotten", "b-small-random", "bias-not-frozen"):
            bug = BUGS[name]
            star.write_text(unwritten(bug.source(), "B", "C", "D"), encoding="utf-8")
            said = bug.pitfall.en.split(":")[0]
            terminal.until(f"this looks like: {said}", f"{bug.killed_by} · ")
        terminal.press("h")
        terminal.until("hint 1 of 3", str(LAB.task("A6").hints[0])[:30])
        terminal.press("h")
        terminal.until("hint 2 of 3")
        terminal.press("t")
        terminal.until("P4 · ", without="hint 2")
        terminal.press("t")
        terminal.until("this looks like")
        terminal.press("n")
        terminal.until("A2 · allocate", "2 of")  # what fails because of it comes after the cause
        terminal.press("a")
        terminal.until("D3", "S3", "failed A6")
        terminal.press("a")
        star.write_text(SOURCE, encoding="utf-8")
        terminal.until("D Merge for inference ✓ ✓ ✓", "S3 · record what you measured")
        terminal.press("q")
        assert terminal.ended() == 0
        assert "next" in terminal.text and "S3" in terminal.text  # the card stays behind
    state = (clone / ".minituner/state.json").read_text(encoding="utf-8")
    assert '"00/A6": 2' in state and '"score": 96' in state


def test_the_same_in_spanish(clone: Path, mark: str) -> None:
    """Every word of it."""
    star, bug = clone / LAB.file, BUGS["scale-forgotten"]
    with watch(clone, mark, language="es") as terminal:
        terminal.until("A1 · comprueba los argumentos", "siguiente", "salir")
        star.write_text(unwritten(bug.source(), "B", "C", "D"), encoding="utf-8")
        shown = terminal.until(f"esto se parece a: {bug.pitfall.es.split(':')[0]}", "medido")
        for english in ("measured", "expected", "likely", "looks like", "next", "quit", "tests "):
            assert english not in shown
        terminal.press("h")
        terminal.until("pista 1 de 3")
        terminal.press("q")
        assert terminal.ended() == 0


def test_it_survives_what_one_saves(clone: Path, mark: str) -> None:
    """A syntax error, an exit, a deleted file, an endless loop; an edit in its middle is enough."""
    star = clone / LAB.file
    with watch(clone, mark) as terminal:
        terminal.until("A1 · ")
        star.write_text("def broken(:\n", encoding="utf-8")
        terminal.until("make the file run at all", "lora.py:1")
        star.write_text(SOURCE.replace("out: Tensor =", "raise SystemExit\n        out: Tensor ="))
        terminal.until("A5 · ", "SystemExit")
        star.unlink()
        terminal.until("make the file run at all", "cannot be read")
        star.write_text(ENDLESS, encoding="utf-8")
        terminal.until("running the contract")
        time.sleep(1)
        started = time.monotonic()
        star.write_text(SOURCE, encoding="utf-8")
        terminal.until("S3 · record what you measured")
        assert time.monotonic() - started < 9, "it waited for the loop to be stopped"
        terminal.press("q")
        assert terminal.ended() == 0


def test_a_loop_is_named(clone: Path, mark: str) -> None:
    """Left alone, it is stopped after its time, here 3 s, with the line it hangs in."""
    contract = clone / "src/minituner/grading/contract.py"
    text = contract.read_text(encoding="utf-8")
    assert f"TEST_SECONDS = {TEST_SECONDS}" in text
    contract.write_text(
        text.replace(f"TEST_SECONDS = {TEST_SECONDS}", "TEST_SECONDS = 3.0"), encoding="utf-8"
    )
    star = clone / LAB.file
    star.write_text(WAITS, encoding="utf-8")
    with watch(clone, mark) as terminal:
        terminal.until("lora.py:", "while True", "no end after 3 s", "endless loop")
        terminal.press("q")
        assert terminal.ended() == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_however_it_ends_nothing_stays(clone: Path, mark: str, how: signal.Signals) -> None:
    """In the middle of an endless loop: the fixture looks for what is left."""
    star = clone / LAB.file
    star.write_text(ENDLESS if how == signal.SIGKILL else WAITS, encoding="utf-8")
    if how == signal.SIGKILL:  # while mypy reads all of torch's types, too
        shutil.rmtree(clone / ".mypy_cache", ignore_errors=True)
    with watch(clone, mark) as terminal:
        terminal.until("running the contract")
        time.sleep(2)
        assert len(running(mark)) > 1
        os.kill(terminal.process.pid, how)
        terminal.ended()
        # Killed outright, what is still loading torch ends when it has loaded.
        assert none_running(mark, 240 if how == signal.SIGKILL else 30), running(mark)


def test_in_a_pipe(clone: Path, mark: str) -> None:
    """No terminal: a plain page for each round, without a single escape."""
    star = clone / LAB.file
    with subprocess.Popen(
        [sys.executable, "-m", "minituner", "watch"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=at(clone, mark),
        cwd=clone,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = ""
        while "read: lab" not in said:
            said += process.stdout.readline()
        star.write_text(SOURCE, encoding="utf-8")
        while "S3 · record" not in said:
            said += process.stdout.readline()
        process.terminate()
        assert process.wait(timeout=30) == 0
    assert "\x1b" not in said
    assert "A1 · check the arguments" in said


def test_without_word_of_saves_and_without_colour(clone: Path, mark: str) -> None:
    """--poll says so and sees a save all the same; NO_COLOR: the same words, and no colour sent."""
    star = clone / LAB.file
    with watch(clone, mark, "--poll", NO_COLOR="1") as terminal:
        terminal.until("no word of saves here: looking 5 times a second", "0/100")
        terminal.until("A1 · check the arguments")
        star.write_text(SOURCE, encoding="utf-8")
        terminal.until("S3 · record what you measured")
        terminal.press("q")
        assert terminal.ended() == 0
        colours = re.findall(
            rb"\x1b\[(?:[0-9;]*;)?(?:3[0-7]|4[0-7]|9[0-7]|38;[0-9;]+)m", terminal.raw
        )
        assert colours == []
