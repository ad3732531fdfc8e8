"""Module trees there: a random one full of decoys, and what has changed in any of them.

Leaves out: models that compute something (models.py) and the claims (lab00_wrap.py, …).
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from minituner.grading.checks.asking import Asking, gap
from minituner.grading.checks.models import FACTORS
from minituner.grading.expr import Expr


@dataclass(frozen=True)
class Tree:
    """A module tree there; which names match its targets, by the rule `t or ends with .t`."""

    it: Expr
    targets: tuple[str, ...]
    matches: list[str]


def tree(ask: Asking) -> Tree:
    """Targets among decoys, names drawn anew: parts of names, other kinds, 'lora' in a name."""
    words: dict[str, None] = {}  # a set that keeps its order: the seed alone decides
    while len(words) < 7:
        letters = [c for c in string.ascii_lowercase if c not in "aeiou"]
        words["".join(ask.rng.choices(letters, k=5))] = None
    q, f, outer, inner, deep, deeper, block = words
    kinds: dict[str, str] = {
        q: "linear",
        "x" + q: "linear",
        q + "ection": "linear",
        f"{q}_norm": "norm",
        f"{block}.{q}": "linear",
        f"{block}.{outer}.{f}": "linear",
        f"{block}.x{outer}.{f}": "linear",
        f"{block}.{f}": "linear",
        f"{block}.lora_gate": "linear",
        f"conv.{q}": "conv",
        f"seq.{q}": "sequence",
        f"lora_{inner}.{q}": "linear",
        f"base.{q}": "linear",
        f"own.{q}": "special",
        f"{deep}.{deeper}.{inner}.{outer}.{f}": "linear",
        f"{deep}.{deeper}.{inner}.{q}": "special",
    }
    order = list(kinds)
    ask.rng.shuffle(order)
    nested: dict[str, Any] = {}
    for path in order:
        *parents, last = path.split(".")
        at = nested
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = kinds[path]
    it = ask.w.keep(_built(ask, nested))
    ask.w.do(ask.kit.assign(it, "lora_scale", ask.nn.Parameter(ask.randn(3, dtype="float32"))))
    ask.w.do(it.register_buffer("lora_table", ask.randn(2, dtype="float32")))
    targets = (q, f"{outer}.{f}")
    linears = [path for path, kind in kinds.items() if kind in ("linear", "special")]
    matches = [p for p in linears if any(p == t or p.endswith("." + t) for t in targets)]
    return Tree(it, targets, sorted(matches))


def _built(ask: Asking, spec: Any) -> Expr:
    if isinstance(spec, dict):
        return ask.nn.ModuleDict({name: _built(ask, inner) for name, inner in spec.items()})
    made = {
        "linear": ask.nn.Linear(5, 4),
        "norm": ask.nn.LayerNorm(4),
        "conv": ask.nn.Conv1d(5, 4, 1),
        "sequence": ask.nn.Sequential(ask.nn.Linear(5, 4)),
        "special": ask.kit.subclass(ask.nn.Linear, "Special")(5, 4),
    }
    return made[spec]


@dataclass(frozen=True)
class Before:
    """A model as it was: the very objects (there), and their names, flags and values (here)."""

    it: Expr
    members: Expr
    seen: tuple[Any, Any, Mapping[str, Tensor]]


def before(ask: Asking, model: Expr) -> Before:
    members = ask.w.keep(ask.kit.members(model))
    kit = ask.kit
    return Before(
        model, members, ask.w.ask((kit.modules(model), kit.params(model), kit.values(model)))
    )


def changes(ask: Asking, was: Before) -> list[str]:
    """Names of modules and parameters that differ from what they were."""
    kit, it = ask.kit, was.it
    look = (kit.modules(it), kit.params(it), kit.values(it), kit.unmoved(was.members, it))
    *now, unmoved = ask.w.ask(look)
    found = [str(row[0]) for i in (0, 1) for row in now[i] if row not in was.seen[i]]
    found += [name for name, value in was.seen[2].items() if gap(now[2].get(name), value) > 0]
    return found or ([] if unmoved is True and len(now[0]) == len(was.seen[0]) else ["identity"])


def adapters(ask: Asking, model: Expr) -> list[str]:
    """The names under which the model has a LoRALinear."""
    found: list[str] = ask.w.ask(ask.kit.instances(model, ask.star("LoRALinear")))
    return found


def factor_names(ask: Asking, model: Expr) -> set[str]:
    """The names of every A and B, however many names their layer has."""
    layers = adapters(ask, model)
    return {f"{name}.{which}" if name else which for name in layers for which in FACTORS}
