"""Files and the box: lab 04's lie in memory, the judge reads them, and a link is followed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import safetensors.torch
import torch

from minituner import folders
from minituner.grading.box import kit_04
from minituner.grading.checks.asking import Wrong
from minituner.grading.checks.lab04_bytes import LENGTH, WEIGHTS, crossing, packed, unpacked
from minituner.grading.expr import name
from minituner.grading.host import GIVEN, Box
from minituner.grading.peer import Raised
from minituner.grading.talk import Talk

pytest_plugins = ["shared"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the box needs Linux")
PROBE = """
from minituner import folders
from minituner.folders import read_folder, write_folder
saved = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"12345"}
"""


def loaded(box: Box, probe: str) -> Talk:
    peer = box.worker()
    peer.load("minituner.probe", "probe.py", probe)
    return Talk(peer)


def test_what_a_submission_saves_lies_in_its_own_memory(box: Box) -> None:
    """It is there for the judge and for read_folder, and nowhere else: no file, no other worker."""
    probe = name("minituner.probe")
    w, other = loaded(box, PROBE), loaded(box, PROBE)
    w.do(probe.write_folder("made/here", probe.saved))
    found, back = w.ask(
        (name("kit_04").on_disk("made/here"), probe.folders.read_folder("made/here"))
    )
    assert {key: bytes(value.numpy()) for key, value in found.items()} == {
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": b"12345",
    }
    assert sorted(back) == sorted(found)
    assert other.ask(name("kit_04").on_disk("made/here")) == {}
    with pytest.raises(Raised, match="expected an adapter's files"):
        other.ask(probe.read_folder("made/here"))
    assert not Path("made").exists()


def test_a_folder_that_is_too_large_is_no_longer_taken(box: Box) -> None:
    """As a disk that is full."""
    w = loaded(box, PROBE + "\ngiant = {str(i): bytes(1 << 20) for i in range(9)}\n")
    with pytest.raises(Raised, match="no space"):
        w.ask(name("minituner.probe.write_folder")("x", name("minituner.probe.giant")))


def test_a_practice_run_gets_its_folders_back() -> None:
    """Diagnosis stands the twin in for a while, and takes it out again."""
    own = folders.write_folder
    with kit_04.held() as twin:
        assert sys.modules["minituner.folders"] is twin
        assert twin.write_folder is kit_04.write_folder
    assert sys.modules["minituner.folders"] is folders
    assert folders.write_folder is own


def test_a_link_to_the_environment_below_tmp_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout in /tmp whose .venv is a link: what torch imports late is found all the same."""
    (tmp_path / "venv").symlink_to(sys.prefix)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/bin/python"))
    with Box(GIVEN) as box:
        w = loaded(box, "import torch\nimport colorsys\nimport torch.utils.serialization\n")
        assert w.ask(name("minituner.probe.colorsys").ONE_THIRD) == 1 / 3


@pytest.mark.parametrize("disk", [folders, kit_04], ids=["disk", "memory"])
def test_memory_does_what_the_disk_does(disk: ModuleType, tmp_path: Path) -> None:
    """A folder is made, CONFIG is new or gone, others stay, and one of the two is refused."""
    place, first = tmp_path / "new/adapter", {kit_04.FILES[0]: b"{}"}
    disk.write_folder(place, first)
    with pytest.raises(ValueError, match="expected an adapter's file"):
        disk.read_folder(place)
    disk.write_folder(str(place), first | {kit_04.FILES[1]: b"old"})
    disk.write_folder(place, first | {kit_04.FILES[1]: b"new"})
    assert disk.read_folder(place) == first | {kit_04.FILES[1]: b"new"}
    disk.write_folder(place, {"README.md": b"mine"})
    with pytest.raises(ValueError, match="expected an adapter's file"):
        disk.read_folder(place)
    with pytest.raises(ValueError, match="expected an adapter's file"):
        disk.read_folder(tmp_path)


# --- safetensors by hand --------------------------------------------------------------------------

TENSORS = {
    "a": torch.randn(2, 3, dtype=torch.float64),
    "b": torch.randn(4, 1),
    "c": torch.randn(3, 3).to(torch.bfloat16),
    "d": torch.randn(1, 2).half(),
}
ROW = {"dtype": "F64", "shape": [2, 8], "data_offsets": [0, 128]}


def read(whole: bytes) -> dict[str, torch.Tensor]:
    return unpacked({WEIGHTS: crossing(whole)})


def test_the_judges_file_is_safetensors() -> None:
    """The two read what the other writes, to the bit."""
    for found in (safetensors.torch.load(packed(TENSORS)), read(safetensors.torch.save(TENSORS))):
        assert found.keys() == TENSORS.keys()
        for key, value in TENSORS.items():
            assert found[key].dtype == value.dtype
            assert torch.equal(found[key], value)


def _with(**changed: object) -> Callable[[], bytes]:
    return lambda: _headed(json.dumps({"a": ROW | changed}).encode())


def _headed(head: bytes, body: int = 128) -> bytes:
    return LENGTH.pack(len(head)) + head + bytes(body)


def test_a_sound_header_is_taken() -> None:
    """Or the next test would show nothing."""
    assert list(read(_with()())) == ["a"]


BROKEN: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"\0",
    "a giant header": lambda: LENGTH.pack(2**63) + b"{}",
    "a header beyond the end": lambda: LENGTH.pack(99) + b"{}",
    "no JSON": lambda: _headed(b"{"),
    "a deep header": lambda: _headed(b"[" * 100_000),
    "a list": lambda: _headed(b"[]"),
    "a key twice": lambda: _headed(b'{"a": 1, "a": 2}'),
    "a giant number": lambda: _headed(b'{"a": ' + b"9" * 5000 + b"}"),
    "too many": lambda: _headed(json.dumps({str(i): ROW for i in range(999)}).encode()),
    "bytes too many": lambda: _headed(json.dumps({"a": ROW}).encode(), 129),
    "bytes too few": lambda: _headed(json.dumps({"a": ROW}).encode(), 127),
    "a giant shape": _with(shape=[2**62, 8]),
    "a negative shape": _with(shape=[-2, -8]),
    "a hidden giant": _with(shape=[0, 10**30]),
    "many axes": _with(shape=[1] * 99),
    "no shape": _with(shape=16),
    "another size": _with(shape=[2, 9]),
    "another start": _with(data_offsets=[8, 136]),
    "a giant offset": _with(data_offsets=[0, 2**70]),
    "negative offsets": _with(data_offsets=[-128, 0]),
    "offsets that are floats": _with(data_offsets=[0.0, 128.0]),
    "offsets that are truths": _with(data_offsets=[False, True], dtype="F16", shape=[1]),
    "offsets that are none": _with(data_offsets=128),
    "offsets that are three": _with(data_offsets=[0, 64, 128]),
    "an entry that is a number": lambda: _headed(b'{"a": 1e999999}'),
    "an entry that is a list": lambda: _headed(b'{"a": [0, 128]}'),
    "an empty entry": lambda: _headed(b'{"a": {}}'),
    "an entry without a dtype": lambda: _headed(
        b'{"a": {"shape": [1], "data_offsets": [0, 8]}}', 8
    ),
    "an entry without a shape": lambda: _headed(
        b'{"a": {"dtype": "F64", "data_offsets": [0, 8]}}', 8
    ),
    "another dtype": _with(dtype="F4"),
    "an overlap": lambda: _headed(
        json.dumps({"a": ROW, "b": ROW | {"data_offsets": [64, 192]}}).encode(), 192
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_wrong_and_ends_nothing(case: str) -> None:
    """A claim that does not hold, at once: no crash, no memory, no guess."""
    with pytest.raises(Wrong):
        read(BROKEN[case]())
