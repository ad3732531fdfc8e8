"""Checks that share workers: whose answer is whose, what a loss leaves; nobody waits for ever."""

from __future__ import annotations

import random
import sys
import time

import pytest
import torch
from build import TEXTS

from minituner.grading.expr import name
from minituner.grading.host import Box
from minituner.grading.peer import Broken, Lost, Peer
from minituner.grading.stream import DEPTH, Lane, stream
from minituner.grading.talk import Exchange, Talk

pytest_plugins = ["shared"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the box needs Linux")
SOURCE = """
import os
from threading import Lock
def end(): os._exit(0)
def hang(): lock = Lock(); lock.acquire(); lock.acquire()
def twice(x): return 2 * x
"""
TWICE, END = name("minituner.probe.twice"), name("minituner.probe.end")
NAMES = [f"check {i}" for i in range(3 * DEPTH)]


def worker(box: Box, reply_seconds: float = 20.0) -> Peer:
    peer = box.worker(reply_seconds=reply_seconds)
    peer.load("minituner.probe", "probe.py", SOURCE)
    return peer


def test_each_answer_reaches_the_check_that_asked(box: Box) -> None:
    """Also a second one, in both lanes; a check that asks nothing has its result, too."""

    def one(name: str, peer: Peer, exchange: Exchange) -> object:
        talk, number = Talk(peer, exchange), NAMES.index(name)
        if number % 5 == 0:
            return "asked nothing"
        first = talk.ask(TWICE(number))
        return first, talk.ask(TWICE([first, number]))

    lanes = [Lane[object](worker(box), NAMES[::2]), Lane[object](worker(box), NAMES[1::2])]
    found = stream(lanes, one)
    assert sorted(found) == sorted(NAMES)
    for number, text in enumerate(NAMES):
        said = (2 * number, [2 * number, number] * 2)
        assert found[text] == ("asked nothing" if number % 5 == 0 else said)


def test_what_is_drawn_there_does_not_depend_on_the_neighbours(box: Box) -> None:
    """--seed repeats a verdict, whichever checks run beside each other."""

    def one(name: str, peer: Peer, exchange: Exchange | None = None) -> object:
        talk = Talk(peer, exchange, random.Random(name))
        return [talk.ask(talk.torch.rand(2)).tolist() for _ in range(3)]

    peer = worker(box)
    alone = {text: one(text, peer) for text in NAMES}
    assert stream([Lane[object](peer, NAMES)], one) == alone
    assert len({str(drawn) for drawn in alone.values()}) == len(NAMES)


def test_a_loss_ends_its_lane_and_leaves_the_others_to_do(box: Box) -> None:
    """The check that asked last for what ended the worker is Lost, no other."""

    def one(name: str, peer: Peer, exchange: Exchange) -> object:
        talk = Talk(peer, exchange)
        try:
            first = talk.ask(TWICE(1))
            return talk.ask(END() if name == NAMES[2] else TWICE(first))
        except Lost as lost:
            return lost

    dying, living = Lane[object](worker(box), NAMES), Lane[object](worker(box), ["a", "b"])
    found = stream([dying, living], one)
    assert [text for text, result in found.items() if isinstance(result, Lost)] == [NAMES[2]]
    assert (found["a"], found["b"]) == (4, 4)
    assert {text: found[text] for text in NAMES[:2]} == dict.fromkeys(NAMES[:2], 4)
    assert list(dying.todo) == NAMES[3:]


def test_large_questions_and_answers_pass_each_other(box: Box) -> None:
    """Both sides write more than a socket holds; neither waits for the other to read."""
    x = torch.arange(1 << 18, dtype=torch.float64)  # 2 MiB

    def one(name: str, peer: Peer, exchange: Exchange) -> object:
        try:
            return bool(torch.equal(Talk(peer, exchange).ask(TWICE(x)), 2 * x))
        except Lost as lost:
            return str(lost)

    lane = Lane[object](worker(box, reply_seconds=5.0), NAMES)
    assert stream([lane], one) == dict.fromkeys(NAMES, True)


def test_a_fault_of_ours_is_let_out_and_leaves_nothing_under_way(box: Box) -> None:
    """The box broke: no check may be called failed for it."""
    left = []

    def one(name: str, peer: Peer, exchange: Exchange) -> object:
        try:
            Talk(peer, exchange).ask(TWICE(1))
        finally:
            left.append(name)
        raise Broken("gone")

    lane = Lane[object](worker(box), NAMES)
    with pytest.raises(Broken, match="gone"):
        stream([lane], one)
    assert sorted(left) == sorted(NAMES[:DEPTH])


def test_a_lane_that_hangs_is_told_from_one_that_works(box: Box) -> None:
    """It sleeps: Lost after its seconds, with the other lane's results untouched."""
    hang = name("minituner.probe.hang")()

    def one(name: str, peer: Peer, exchange: Exchange) -> object:
        try:
            return Talk(peer, exchange).ask(hang if name == "hangs" else TWICE(1))
        except Lost as lost:
            return lost

    hung = worker(box, 1.0)
    lanes = [Lane[object](hung, ["hangs"]), Lane[object](worker(box, 1.0), ["a", "b"])]
    found = stream(lanes, one)
    lost = found["hangs"]
    assert isinstance(lost, Lost)
    assert lost.idle
    assert (found["a"], found["b"]) == (2, 2)


FLOOD = """
def twice(x):
    shout(frame(b'{"value": 4, "tensors": []}') * EXTRA)
    return 2 * x
"""


@pytest.mark.parametrize("extra", [0, 100, 100_000])
def test_more_answers_than_questions_are_nonsense_at_once(box: Box, extra: int) -> None:
    """Else a worker that floods the wire and reads nothing would cost all the time there is."""
    peer = box.worker(reply_seconds=600)
    wires = (TEXTS / "_wires.py").read_text(encoding="utf-8")
    peer.load("minituner.probe", "probe.py", wires + FLOOD.replace("EXTRA", str(extra)))
    started = time.monotonic()
    if extra == 0:
        assert [Talk(peer).ask(TWICE(2)) for _ in range(3)] == [4, 4, 4]
        assert peer.waiting == 0
    else:
        with pytest.raises(Lost, match="more answers than there were questions"):
            Talk(peer).ask(TWICE(2))
    assert time.monotonic() - started < 60
    peer.close()
