"""Starts once, warms torch, and forks a sandboxed worker for each submission. It holds no secret.

    python -I -m minituner.grading.box.start FD CONFIG

FD is a socket on which each message asks for one worker: limits in JSON, and two descriptors, the
worker's wire and the keeper's. The keeper is a small process between: it waits for its worker,
kills it when the judge hangs up, and reports how it ended. CONFIG is JSON: "layers" to put up,
"given" modules by name and file. Leaves out: the verdict; the judge is another program.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from minituner.grading.box import kernel, kit, kit_04, pages, protocol, sandbox, uncompiled
from minituner.grading.box.worker import Worker

PER_WORKER = ("pid", "ipc", "net")  # namespaces that the keeper opens for its worker
MESSAGE = 1 << 16
PRACTICE = 20  # times


def warm() -> None:
    """Pull in what torch imports lazily, so that no fork has to. Neutral code: it is inherited."""
    uncompiled.stand_in()
    torch.set_num_threads(1)
    layer = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.LayerNorm(4))
    x = torch.randn(3, 4, requires_grad=True)
    loss = nn.functional.cross_entropy(layer(x), torch.tensor([0, 1, 2]))
    torch.autograd.backward(loss)
    kit.sgd(layer, 0.1)
    layer.load_state_dict(kit.deepcopy(layer).state_dict())
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        kit.deepcopy(layer).to(dtype)(torch.ones(2, 4, dtype=dtype)).sum().item()
    nn.init.kaiming_uniform_(torch.empty(3, 3), a=5**0.5)
    parametrize.register_parametrization(layer[0], "weight", nn.Identity())
    layer(x).sum().item()
    parametrize.remove_parametrizations(layer[0], "weight")
    torch.einsum("or,ri->oi", torch.ones(2, 3), torch.ones(3, 4))
    # Should a submission want torch's compiler after all: that wants places to write to.
    tempfile.tempdir = os.environ["TORCHINDUCTOR_CACHE_DIR"] = "/"  # exists, so nothing is made
    nowhere = torch.empty(3, 3, device="meta")
    for draw in (nn.init.normal_, nn.init.uniform_, nn.init.zeros_, nn.init.kaiming_uniform_):
        draw(nowhere)
    torch.randn_like(nowhere).div(2).matmul(nowhere)
    torch.randint(-8, 9, (3,)).isfinite().all().item()
    try:
        raise KeyError("warm")
    except KeyError as error:
        Worker(-1, {})._told(error)


def practise() -> None:
    """Go a check's ways often enough that Python has specialised them before any fork."""
    one, worker = torch.ones(3, 3), Worker(-1, {})
    pairs = ["list", [["tuple", [["t", 0], None]]] * 2]
    made = ["call", ["name", "kit.net"], [["list", ["a.b", "c"]], pairs]]
    for _ in range(PRACTICE):
        frame = protocol.pack({"seed": 1, "steps": [[1, made]]}, [one])
        header, tensors = protocol.opened(frame)
        worker._steps(header["steps"], tensors)
        net = worker.kept[1]
        kit.seed(header["seed"])
        kit.backward(net.train()(one), one)
        kit.sgd(net.eval(), 0.1)
        kit.merged(net.state_dict(), kit.values(net), ["norm.bias"])
        seen = [kit.params(net), kit.modules(net), kit.instances(net, nn.Linear)]
        protocol.pack({"value": worker._coded(seen, [])}, [])
        kit.unmoved(kit.members(net), net.requires_grad_(False))
        list(net.named_modules()), list(net.named_parameters())


def given_modules(files: dict[str, str]) -> dict[str, ModuleType]:
    """The package as a submission sees it: empty, but for the modules the lab gives."""
    for name in [n for n in sys.modules if n.split(".")[0] == "minituner"]:
        del sys.modules[name]
    package = ModuleType("minituner")
    package.__path__ = []
    sys.modules["minituner"] = package
    made: dict[str, ModuleType] = {}
    for name in files:
        _give(name, files, made)
    if kit_04.FOLDERS in made:
        made[kit_04.FOLDERS] = kit_04.hold()
    return made


def _give(name: str, files: dict[str, str], made: dict[str, ModuleType]) -> None:
    """Run one given module, after those that it imports."""
    if name in made:
        return
    file, source = Path(files[name]).name, Path(files[name]).read_text(encoding="utf-8")
    tree = ast.parse(source)
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)):
        for other in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
            if other in files and other != name:
                _give(str(other), files, made)
    made[name] = module = ModuleType(name)
    module.__file__ = file
    sys.modules[name] = module
    package, _, child = name.rpartition(".")
    setattr(sys.modules[package], child, module)
    exec(compile(source, file, "exec", dont_inherit=True), module.__dict__)


class Zygote:
    """What every fork inherits."""

    def __init__(self, control: socket.socket, config: dict[str, Any]) -> None:
        self.control = control
        self.layers: list[str] = config["layers"]
        self.trees = sandbox.readable()
        self.mapped = sandbox.mapped_bytes()
        self.given = given_modules(config["given"])
        self.nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
        self.root = os.geteuid() == 0
        self.standing: list[str] = []
        if not self.root and "user" in self.layers:
            kernel.enter_user_namespace(self.proc)
            self.standing.append("user")
        if "mount" in self.layers:
            sandbox.build_jail(self.trees)
            self.standing.append("mount")

    def serve(self) -> None:
        """Fork a keeper for each message, until the judge hangs up."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel collects the keepers
        protocol.send(self.control.fileno(), protocol.pack({"ready": self.standing}, []))
        forks = pages.Forks(self.proc)
        while True:
            message, descriptors, _, _ = socket.recv_fds(self.control, MESSAGE, 2)
            if not message:
                return
            if os.fork() == 0:
                self.control.close()
                self.keep(sandbox.Limits(**json.loads(message)), *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            forks.one_more()

    def keep(self, limits: sandbox.Limits, wire: int, line: int) -> None:
        """The keeper: one worker, and word of its end."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        told: dict[str, Any] = {}
        try:
            wanted = [name for name in PER_WORKER if name in self.layers]
            if wanted:
                kernel.unshare(*wanted)
            slot = os.getpid()  # nobody else's while this keeper lives
            worker = os.fork()
            if worker == 0:
                os.close(line)
                self.work(limits, wire, [*self.standing, *wanted], slot)
            os.close(wire)
            told = _watch(worker, line, limits.cpu_seconds)
        except OSError as error:
            told = {"broken": str(error)}
        try:
            protocol.send(line, protocol.pack(told, []))
        finally:
            os._exit(0)

    def work(self, limits: sandbox.Limits, wire: int, standing: list[str], slot: int) -> None:
        """The worker: its walls first, then word of them, then whatever it is asked."""
        try:
            os.setsid()
            for stream in (0, 1, 2):
                os.dup2(self.nothing, stream)
            os.close(self.nothing)
            if self.root and "uid" in self.layers:
                slot = sandbox.FIRST_USER + slot % sandbox.USERS
                sandbox.become_nobody_else(slot)
                standing.append("uid")
            lock = partial(sandbox.limit, limits, self.mapped)
            sandbox.enclose(self.layers, standing, self.trees, lock, self.proc)
            protocol.send(wire, protocol.pack({"standing": standing}, []))
        except OSError as error:
            protocol.send(wire, protocol.pack({"broken": str(error)}, []))
            os._exit(0)
        try:
            Worker(wire, self.given).serve()
        finally:
            os._exit(0)


def _watch(worker: int, line: int, cpu_seconds: float) -> dict[str, Any]:
    """Wait for the worker's end, or bring it about when the judge says so, is gone, or time is up.

    The kernel's own limit on CPU time counts ticks and whole seconds; this one, what was used.
    """
    handle = os.pidfd_open(worker)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(line, select.POLLIN)
    used = ~worker << 3 | 2  # man 3 clock_getcpuclockid: how Linux numbers a process's clock
    ready: dict[int, int] = {}
    while not ready and (left := cpu_seconds - time.clock_gettime(used)) > 0:
        ready = dict(poll.poll(1000 * left + 1))
    if handle not in ready:
        os.kill(worker, signal.SIGKILL)
    _, status, usage = os.wait4(worker, 0)
    return {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    warm()
    practise()
    try:
        zygote = Zygote(control, json.loads(sys.argv[2]))
    except OSError as error:
        protocol.send(control.fileno(), protocol.pack({"broken": str(error)}, []))
        return
    gc.freeze()  # should a worker collect after all, it need not look through what is loaded
    zygote.serve()
