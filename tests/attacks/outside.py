"""Runs an attack against a judge that believes everything, and says what was seen.

    python tests/attacks/outside.py [--boxed | --gate] [NAME …]

Without a flag the worker has no walls: what attacks.toml calls `outside` must be seen there, or the
attack tests nothing. With --boxed it is the exam's own zygote with all its layers: nothing but a
worker's end may be seen. --gate only reads the source.
Leaves out: scores (`minituner grade` and the exam give those).
"""

from __future__ import annotations

import json
import secrets
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import build  # the neighbour: this file is run by its path
import torch
from scene import Box, run

from minituner.grading import gates
from minituner.grading.box import protocol
from minituner.grading.registry import ROOT, Lab, lab

LAYERS = ["rlimits", "no_new_privs", "landlock", "seccomp", "user", "mount", "pid", "ipc", "net"]
LAYERS += ["uid"]
Asked = tuple[dict[str, Any], list[torch.Tensor]]


def name(dotted: str) -> list[Any]:
    return ["name", dotted]


def call(what: list[Any], *args: Any) -> list[Any]:
    return ["call", what, list(args), {}]


def questions(which: Lab) -> list[Asked]:
    """What any judge would ask: a layer, two calls, its parameters, a step, a model, its state.

    In a lab after 00: each of its names, called.
    """
    x = torch.randn(3, 4)
    if which.id != "00":
        called = [call(name(f"{which.module}.{one}"), ["t", 0]) for one in which.names]
        return [({"seed": None, "steps": [[None, one]]}, [x]) for one in called]
    linear = call(name("torch.nn.Linear"), 4, 4)
    layer = call(name(f"{which.module}.LoRALinear"), linear, 2, 3.0)
    model = call(name("torch.nn.ModuleDict"), ["dict", [["q_proj", linear]]])
    wrap = name(f"{which.module}.wrap_minigpt_with_lora")
    steps: list[list[list[Any]]] = [
        [[0, layer], [None, call(["v", 0], ["t", 0])]],
        [[None, call(name("kit.params"), ["v", 0])]],
        [[1, call(["v", 0], ["t", 0])], [None, call(name("kit.backward"), ["v", 1], ["t", 0])]],
        [[None, call(name("kit.sgd"), ["v", 0], 0.1)]],
        [[2, model], [None, ["call", wrap, [["v", 2]], {"target_modules": ["list", ["q_proj"]]}]]],
        [[None, call(name(f"{which.module}.lora_state_dict"), ["v", 2])]],
        [[None, call(["v", 0], ["t", 1])]],
        [[None, call(["get", ["v", 0], "merge_"])]],
    ]
    return [({"seed": None, "steps": step}, [x, x[None]]) for step in steps]


def talk(
    attack: build.Attack,
    wire: socket.socket,
    text: str,
    seen: set[str],
    secret: str,
    seconds: float,
) -> None:
    """Load the file, ask the questions, note how the answers are."""
    which = lab(attack.lab)
    load: Asked = ({"load": [which.module, which.star, text]}, [])
    try:
        protocol.receive(wire.fileno(), time.monotonic() + 60)  # which walls stand
        for header, tensors in [load, *questions(which)]:
            protocol.send(wire.fileno(), protocol.pack(header, tensors), time.monotonic() + seconds)
            answer, _ = protocol.receive(wire.fileno(), time.monotonic() + seconds)
            if secret in json.dumps(answer):
                seen.add("leak")
            raised = answer.get("raised")
            if (
                isinstance(raised, dict)
                and isinstance(raised.get("kinds"), list)
                and raised["kinds"]
            ):
                seen.add("raises")
                if "--say" in sys.argv:
                    print(
                        "   ", raised["kinds"][:1], str(raised.get("said"))[:150], raised.get("at")
                    )
            elif set(answer) not in (set(), {"value"}) or raised is not None:
                seen.add("forged")
            if isinstance(answer.get("value"), list) and answer["value"][:1] == ["odd"]:
                seen.add("odd")
            if "load" in header and "value" in answer and answer["value"] is not None:
                seen.add("forged")
    except protocol.Closed:
        seen.add("ends")
    except protocol.TooSlow:
        seen.add("hangs")
    except protocol.Malformed:
        seen.add("malformed")
    except Exception as error:
        seen.add("crash")
        print("    the judge crashed:", type(error).__name__, str(error)[:80])


def gate(attack: build.Attack) -> str:
    """What the source gates say, in the words of attacks.toml."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "in").mkdir()
        (Path(name) / "tree").mkdir()
        fields = {"MARK": "/nowhere", "TREE": f"{name}/tree", "ROOT": str(ROOT)}
        which = lab(attack.lab)
        path = build.make(attack, Path(name) / "in", fields) / which.star
        if not path.is_file() or path.is_symlink() or path.stat().st_size > 1 << 20:
            return "unreadable"
        source = gates.intake(path)
        if isinstance(source, str):
            return "unreadable"
        try:
            red = [g for g in gates.check_source(source, which) if g.outcome != "passed"]
        except Exception as error:
            return f"crashes ({type(error).__name__})"
    if any(g.id == "source" for g in red):
        return "refused"
    costs = sorted({task for g in red for task in g.costs})
    return f"costs {' '.join(costs)}" if costs else "passes"


def main() -> None:
    names = [word for word in sys.argv[1:] if not word.startswith("-")]
    boxed = "--boxed" in sys.argv
    box = Box(LAYERS if boxed else [], secrets.token_hex(16)) if "--gate" not in sys.argv else None
    bad = 0
    for attack in build.attacks():
        if names and attack.name not in names:
            continue
        if attack.kind != "file" and "--gate" not in sys.argv:
            continue
        if "--gate" in sys.argv:
            said = gate(attack)
            good = said == attack.gate
            print("ok " if good else "BAD", attack.name, said, flush=True)
            bad += not good
            continue
        assert box is not None
        started = time.monotonic()
        seen = run(attack, box, talk)
        harmful = seen & {
            "mark",
            "tree",
            "site",
            "port",
            "victim",
            "process",
            "leak",
            "memory",
            "grader",
        }
        crashed = seen & {"crash"}
        if boxed:
            good = not (harmful | crashed)
        else:
            good = attack.outside in seen or attack.outside == "wrong"
            good = good or (attack.outside == "answers" and "raises" not in seen)
        bad += not good
        took = f"{time.monotonic() - started:.1f} s"
        print("ok " if good else "BAD", attack.name, attack.outside, sorted(seen), took, flush=True)
    if box is not None:
        box.end()
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
