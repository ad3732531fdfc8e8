"""The process that holds a submission: it evaluates what the judge asks, and answers in frames.

A request is a seed for torch, or null, and a list of steps [keep, code]; code is JSON, where
a scalar is itself ·
["t", i] the i-th tensor sent · ["v", n] a kept value · ["name", "torch.nn.Linear"] ·
["get", code, name] · ["item", code, code] · ["call", code, [code …], {name: code}, if any] ·
["list", [code …]] · ["tuple", [code …]] · ["dict", [[code, code] …]] · ["try", code], which
is what was raised, or None.
The answer is the last step's value, or what was raised and at which line of the submission.
Leaves out: any judgement; nothing in this process is believed.
"""

from __future__ import annotations

import linecache
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from minituner.grading.box import kit, kit_02, kit_04, protocol

MAX_TEXT = 2000  # characters of an exception's message
MAX_STRING = 1 << 16  # characters of a string that crosses; none that is asked for is longer
SHORT = frozenset((type(None), bool, int, float))  # these cross as they are


class Told:
    """What an expression raised, as a value."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.row = row


class Worker:
    """One submission's modules and the values the judge keeps here."""

    def __init__(self, wire: int, given: dict[str, ModuleType]) -> None:
        self.wire = wire
        self.reader = protocol.Reader(wire)
        self.kept: dict[int, Any] = {}
        kits = {"kit": kit, "kit_02": kit_02, "kit_04": kit_04}
        self.roots: dict[str, Any] = {"torch": torch, **kits, **given}
        self.paths: dict[str, tuple[str, list[str]]] = {}  # a dotted name's root, and the way on
        self.files: dict[str, str] = {}

    def serve(self) -> None:
        """Answer until the judge hangs up."""
        while True:
            try:
                header, tensors = self.reader.receive()
            except protocol.Closed:
                return
            protocol.send(self.wire, self.answered(header, tensors))

    def answered(self, header: dict[str, Any], tensors: list[Tensor]) -> bytes:
        """The frame that answers a request."""
        answer: dict[str, Any] = {}
        carried: list[Tensor] = []
        try:
            if "load" in header:
                self.load(*header["load"])
            else:
                if header["seed"] is not None:
                    kit.seed(header["seed"])
                answer = {"value": self._coded(self._steps(header["steps"], tensors), carried)}
        except BaseException as error:
            answer, carried = {"raised": self._told(error)}, []
        return self._packed(answer, carried)

    def load(self, name: str, file: str, source: str) -> None:
        """Run a submission's source as the module `name`."""
        # Tracebacks and inspect find the text here; there is no file.
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        module = ModuleType(name)
        module.__file__ = file
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, module)
        self.files[file] = name
        exec(compile(source, file, "exec", dont_inherit=True), module.__dict__)
        self.roots[name] = sys.modules[name]

    def _steps(self, steps: list[list[Any]], tensors: list[Tensor]) -> Any:
        value = None
        for keep, code in steps:
            value = self._value(code, tensors)
            if keep is not None:
                self.kept[keep] = value
                value = None
        return value

    def _value(self, code: Any, tensors: list[Tensor]) -> Any:
        if type(code) is not list:
            return code
        kind, first = code[0], code[1]
        if kind == "v":
            return self.kept[first]
        if kind == "t":
            return tensors[first]
        if kind == "get":
            return getattr(self._value(first, tensors), code[2])
        if kind == "name":
            return self._named(first)
        if kind == "call":
            called, args = self._value(first, tensors), self._values(code[2], tensors)
            if len(code) == 3:
                return called(*args)
            return called(*args, **{k: self._value(v, tensors) for k, v in code[3].items()})
        if kind == "item":
            return self._value(first, tensors)[self._value(code[2], tensors)]
        if kind == "try":
            return self._tried(first, tensors)
        if kind == "dict":
            return {self._value(k, tensors): self._value(v, tensors) for k, v in first}
        items = self._values(first, tensors)
        return tuple(items) if kind == "tuple" else items

    def _values(self, codes: list[Any], tensors: list[Tensor]) -> list[Any]:
        """Each one's; most are plain, and a call for each would cost more than the rest."""
        return [self._value(code, tensors) if type(code) is list else code for code in codes]

    def _tried(self, code: Any, tensors: list[Tensor]) -> Told | None:
        try:
            self._value(code, tensors)
        except BaseException as error:
            return Told(self._told(error))
        return None

    def _named(self, dotted: str) -> Any:
        if dotted not in self.paths:
            root = max((r for r in self.roots if (dotted + ".").startswith(r + ".")), key=len)
            self.paths[dotted] = root, dotted[len(root) :].split(".")[1:]
        root, parts = self.paths[dotted]
        found = self.roots[root]
        for part in parts:
            found = getattr(found, part)
        return found

    def _coded(self, value: Any, carried: list[Tensor]) -> Any:
        """A value as JSON; only plain values, plain containers and plain tensors cross."""
        kind = type(value)
        if kind in SHORT or (kind is str and len(value) <= MAX_STRING):
            return value
        if kind is Told:
            return ["told", value.row]
        if kind is Tensor or kind is nn.Parameter:
            carried.append(value)
            return ["t", len(carried) - 1]
        for plain in (list, tuple):  # a NamedTuple is the tuple it holds
            if plain in kit.MRO.__get__(kind):
                items = plain.__iter__(value)
                return [plain.__name__, [self._coded(item, carried) for item in items]]
        if isinstance(value, dict):
            rows = [[self._coded(k, carried), self._coded(v, carried)] for k, v in value.items()]
            return ["dict", rows]
        return ["odd", type(value).__name__[:80]]

    def _told(self, error: BaseException) -> dict[str, Any]:
        kinds = [kind.__name__[:80] for kind in type(error).__mro__]
        try:
            said = str(error)[:MAX_TEXT]
        except BaseException as worse:
            said = f"<its message raised {type(worse).__name__}>"
        at: list[object] | None = None
        trace = error.__traceback__
        while trace is not None:  # not traceback.extract_tb: that looks for every file's lines
            if trace.tb_frame.f_code.co_filename in self.files:
                at = [trace.tb_frame.f_code.co_filename, trace.tb_lineno]
            trace = trace.tb_next
        if isinstance(error, SyntaxError) and error.filename in self.files:
            at = [error.filename, error.lineno]
        return {"kinds": kinds, "said": said, "at": at}

    def _packed(self, answer: dict[str, Any], carried: list[Tensor]) -> bytes:
        try:
            return protocol.pack(answer, carried)
        except protocol.Malformed as error:
            told = {"kinds": ["Malformed"], "said": str(error)[:MAX_TEXT], "at": None}
            return protocol.pack({"raised": told}, [])
