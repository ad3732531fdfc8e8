"""Whose code is tested, on which device, from which seed. tests/test_minituner.py says what for."""

from __future__ import annotations

import gc

COLLECTS = gc.isenabled()  # not in a child of the grader's, which ends before it would pay
gc.disable()  # until all is loaded: to look for garbage meanwhile takes a sixth of `pytest -k lora`

import random
import re
import warnings
import zlib
from functools import partial
from pathlib import Path

import pytest
import torch

from minituner.standin import stand_in, standing

GARBAGE = 50_000  # objects between two looks for it; at Python's 700 they take a twelfth of a run
UNWRITTEN = r"^NotImplementedError: [A-Z]\d+: .*; see lab/\S+$"  # as the stubs raise it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--impl", default="student", help="whose code: student, reference or a path")
    parser.addoption("--device", default=None, help="only this device: cpu, cuda or mps")


def pytest_configure(config: pytest.Config) -> None:
    impl: str = config.getoption("--impl")
    if impl == "student":
        return
    found = standing(impl)
    if not found:
        raise pytest.UsageError(f"--impl: expected a ★ file or a folder with one, got {impl}")
    stand_in(found)


def devices(only: str | None) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old driver warns; that is not the learner's fault
        found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    present = ["cpu", *(name for name, here in found.items() if here)]
    return present if only is None else [name for name in present if name == only]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        needs_float64 = metafunc.definition.get_closest_marker("float64") is not None
        names = devices(metafunc.config.getoption("--device"))
        metafunc.parametrize("device", [n for n in names if not (needs_float64 and n == "mps")])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.user_properties.extend(("task", m.args[0]) for m in item.iter_markers("task"))
    items.sort(key=turn, reverse=True)  # in the order drawn, but for upkeep's long ones


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """All is loaded and collected, here or, under `pytest -n`, by others."""
    gc.freeze()  # that stays: no need to look through it again and again
    gc.set_threshold(GARBAGE)
    if COLLECTS:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """A step that is not written yet is told in one line: tracebacks for all of them take seconds.

    Unless another error was on its way when it was raised, or one asks for another --tb than ours.
    """
    vars(item).pop("repr_failure", None)  # of a run before this one
    option = item.config.option
    if call.excinfo is None or option.tbstyle != "short" or option.fulltrace:
        return
    alone = call.excinfo.value.__context__ is None
    if alone and re.search(UNWRITTEN, call.excinfo.exconly()):
        item.repr_failure = partial(_one_line, item.config.rootpath)  # type: ignore[method-assign]  # this item's alone


def _one_line(
    root: Path, excinfo: pytest.ExceptionInfo[BaseException], style: object = None
) -> str:
    path, line = Path(excinfo.traceback[-1].path), excinfo.traceback[-1].lineno + 1
    path = path.relative_to(root) if path.is_relative_to(root) else path
    return f"{path}:{line}: {excinfo.exconly()}"


def turn(item: pytest.Item) -> tuple[bool, float]:
    """Of a test marked as long: whether it needs no types, and its seconds; others come last."""
    mark = item.get_closest_marker("long")
    return (False, 0.0) if mark is None else (mark.kwargs.get("untyped", False), *mark.args)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Under `pytest -n`: tests that share what took long stay in one process."""
    from groups import scheduler

    return scheduler(config, log)


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """Seeds torch and random from the run's seed and the test's name; printed when a test fails."""
    return seed_for(request.config, request.node.name)


def seed_for(config: pytest.Config, name: str) -> int:
    """What the fixture does before the test of this name."""
    run = int(config.getoption("randomly_seed", 0))  # 0 under -p no:randomly
    mixed = zlib.crc32(f"{run}:{name}".encode())
    random.seed(mixed)
    torch.default_generator.manual_seed(mixed)  # torch.manual_seed also prepares absent devices
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(mixed)
    print(f"to repeat: pytest --randomly-seed={run}")
    return mixed
