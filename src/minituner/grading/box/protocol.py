"""Frames between the judge and a worker: u32 length, JSON header, raw tensor bytes. Never pickle.

A frame is  length of header · length of body · header · body.  The header's "tensors" lists
[dtype, shape] in the order in which their bytes follow one another in the body. Everything read is
counted and capped before it is believed; a frame that breaks a rule raises Malformed.
Leaves out: what the headers mean (worker.py answers, the judge asks).
"""

from __future__ import annotations

import json
import math
import os
import select
import struct
import time
from typing import Any

import torch
from torch import Tensor

LENGTHS = struct.Struct("<II")
MAX_HEADER = 1 << 20  # bytes
MAX_BODY = 32 << 20  # bytes
MAX_HELD = MAX_HEADER + MAX_BODY  # bytes read ahead of their turn
MAX_TENSORS = 1024
MAX_AXES = 6
DTYPES = {
    name: getattr(torch, name)
    for name in ("float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8", "bool")
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Malformed(Exception):
    """The other side sent what no honest peer sends."""


class Closed(Exception):
    """The other side is gone."""


class TooSlow(Exception):
    """The other side sent nothing complete before the deadline."""


def pack(header: dict[str, Any], tensors: list[Tensor]) -> bytes:
    """One frame.

    Raises:
        Malformed: a tensor's dtype has no name here, or the frame would be over a cap.
    """
    rows: list[list[object]] = []
    parts = []
    if len(tensors) > MAX_TENSORS:
        raise Malformed("more tensors, or larger ones, than a frame holds")
    for tensor in tensors:
        name = NAMES.get(tensor.dtype)
        if name is None or tensor.layout is not torch.strided or tensor.is_meta:
            raise Malformed(f"a tensor of {tensor.dtype}, {tensor.layout}, on {tensor.device}")
        if tensor.nbytes > MAX_BODY:
            raise Malformed("more tensors, or larger ones, than a frame holds")
        rows.append([name, tensor.shape])  # a shape is a tuple, which JSON writes as a list
        parts.append(_bytes(tensor))
    head = json.dumps(header | {"tensors": rows}).encode("ascii")
    body = b"".join(parts)
    if len(head) > MAX_HEADER or len(body) > MAX_BODY:
        raise Malformed(f"a frame of {len(head)} + {len(body)} bytes")
    return LENGTHS.pack(len(head), len(body)) + head + body


def _bytes(tensor: Tensor) -> bytes:
    """The values one after the other; numpy has no bfloat16, so that goes as it is stored."""
    plain = tensor.detach()
    try:
        return bytes(plain.numpy().tobytes())
    except (TypeError, RuntimeError):  # bfloat16; or another device, a lazy conjugate or sign
        plain = plain.resolve_conj().resolve_neg().cpu()
    if plain.dtype == torch.bfloat16:
        plain = plain.contiguous().view(torch.int16)
    return bytes(plain.numpy().tobytes())


def unpack(head: bytes, body: bytes | bytearray) -> tuple[dict[str, Any], list[Tensor]]:
    """The header and the tensors of one frame.

    Raises:
        Malformed: not JSON, not an object, or tensors that do not fill the body exactly.
    """
    try:
        header = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a header that is not JSON ({type(error).__name__})") from None
    if not isinstance(header, dict):
        raise Malformed("a header that is no object")
    rows = header.pop("tensors", [])
    if not isinstance(rows, list) or len(rows) > MAX_TENSORS:
        raise Malformed("a list of tensors that is none, or too long")
    tensors, at, raw = [], 0, memoryview(body)
    for row in rows:
        dtype, shape = _declared(row)
        size = math.prod(shape) * dtype.itemsize
        if size > len(body) - at:
            raise Malformed("a tensor that is larger than what was sent")
        if size:
            row_of = torch.frombuffer(bytearray(raw[at : at + size]), dtype=dtype)
            tensors.append(row_of if len(shape) == 1 else row_of.view(shape))
        else:
            tensors.append(torch.empty(shape, dtype=dtype))
        at += size
    if at != len(body):
        raise Malformed("bytes that belong to no tensor")
    return header, tensors


def opened(frame: bytes) -> tuple[dict[str, Any], list[Tensor]]:
    """What is in a whole frame, as pack() makes it.

    Raises:
        Malformed.
    """
    head, _ = LENGTHS.unpack_from(frame)
    body = LENGTHS.size + head
    return unpack(frame[LENGTHS.size : body], frame[body:])


def _declared(row: object) -> tuple[torch.dtype, list[int]]:
    if not (isinstance(row, list) and len(row) == 2 and isinstance(row[1], list)):
        raise Malformed("a tensor without dtype and shape")
    name, shape = row
    if not isinstance(name, str) or name not in DTYPES or len(shape) > MAX_AXES:
        raise Malformed("a tensor of another dtype, or with too many axes")
    entries = 1  # as if there were no zero: one among them hides no giant
    for size in shape:
        if type(size) is not int or size < 0:
            raise Malformed("a shape that is none")
        entries *= size or 1
        if entries > MAX_BODY:
            raise Malformed("a shape that is none")
    return DTYPES[name], shape


def send(
    wire: int, frame: bytes, deadline: float | None = None, reader: Reader | None = None
) -> None:
    """Write all of it.

    Args:
        reader: takes in what comes meanwhile: two that only write would wait for each other.
    Raises:
        Closed: nobody reads any more. TooSlow: not read before the deadline.
    """
    left = memoryview(frame)
    while left:
        try:
            left = left[os.write(wire, left) :]
        except BlockingIOError:
            listens = reader is not None and len(reader.held) < MAX_HELD
            come = _await(wire, select.POLLOUT | (select.POLLIN if listens else 0), deadline)
            if reader is not None and come & select.POLLIN:
                reader.take()
        except OSError:
            raise Closed from None


class Reader:
    """Reads frames from one wire, as much at a time as has come."""

    def __init__(self, wire: int) -> None:
        self.wire = wire
        self.held = bytearray()

    def receive(self, deadline: float | None = None) -> tuple[dict[str, Any], list[Tensor]]:
        """One frame; `deadline` is on time.monotonic()'s clock.

        Raises:
            Closed, TooSlow, Malformed.
        """
        start = LENGTHS.size
        self._hold(start, deadline)
        head, body = LENGTHS.unpack_from(self.held)
        if head > MAX_HEADER or body > MAX_BODY:
            raise Malformed(f"a frame of {head} + {body} bytes")
        middle, end = start + head, start + head + body
        self._hold(end, deadline)
        frame = bytes(memoryview(self.held)[start:middle]), self.held[middle:end]
        del self.held[:end]
        return unpack(*frame)

    def more_than(self, frames: int) -> bool:
        """Whether more whole frames have come than that."""
        end = 0
        for _ in range(frames + 1):
            if len(self.held) < end + LENGTHS.size:
                return False
            end += LENGTHS.size + sum(LENGTHS.unpack_from(self.held, end))
        return end <= len(self.held)

    def _hold(self, count: int, deadline: float | None) -> None:
        """Read until that many bytes are here."""
        while len(self.held) < count:
            if deadline is not None:  # a wire that blocks would never come back to look at it
                _await(self.wire, select.POLLIN, deadline)
            self.take()

    def take(self) -> None:
        """Read what has come; a wire that blocks waits for something.

        Raises:
            Closed.
        """
        try:
            part = os.read(self.wire, 1 << 16)
        except BlockingIOError:
            return
        except OSError:
            raise Closed from None
        if not part:
            raise Closed
        self.held += part


def receive(wire: int, deadline: float | None = None) -> tuple[dict[str, Any], list[Tensor]]:
    """The first frame on a wire, where only one is to come before a Reader takes over."""
    return Reader(wire).receive(deadline)


def _await(wire: int, events: int, deadline: float | None) -> int:
    """Wait until the wire is ready for one of the events; which."""
    poll = select.poll()
    poll.register(wire, events)
    left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
    ready = poll.poll(left)
    if not ready:
        raise TooSlow
    return ready[0][1]
