"""What the checks of lab 04 share: layers and models there, their values here, closed forms.

A model's oracle is the given GPT in this process, its weights folded by hand in float64.
Leaves out: the two files (lab04_bytes.py) and the claims (lab04_conv1d.py, …).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from minituner.gpt2 import GPT2, Conv1D, GPT2Config
from minituner.grading.checks.asking import Asking, gap
from minituner.grading.checks.trees import before, changes
from minituner.grading.expr import Expr, name, tried
from minituner.grading.peer import Raised
from minituner.minigpt import MiniGPT, MiniGPTConfig

KIT = name("kit_04")
REFUSED = ("ValueError", "TypeError")
FILES = (*REFUSED, "KeyError")  # files that do not fit may be any of these
TARGETS = ("q_proj", "mlp.fc1")  # of a MiniGPT: two linears a block, the second not square
ALPHAS = (1.5, 3.0, 5.0)
Pairs = dict[str, tuple[Tensor, Tensor]]

# --- layers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conv:
    """A Conv1D there, or an nn.Linear, and its values here."""

    it: Expr
    weight: Tensor  # (in, out), of a linear's too
    bias: Tensor  # (out,)
    kind: str

    @property
    def sizes(self) -> tuple[int, int]:
        """(in, out)."""
        return self.weight.shape[0], self.weight.shape[1]

    def out(self, x: Tensor) -> Tensor:
        """x W + b in float64."""
        return x.double() @ self.weight.double() + self.bias.double()


def conv1d(
    ask: Asking,
    sizes: tuple[int, int] | None = None,
    dtype: str = "float64",
    foreign: bool = False,
) -> Conv:
    """A Conv1D (in, out), in < out, with values of the judge's.

    Args:
        foreign: of another package.
    """
    rows, columns = sizes or (ask.rng.randint(4, 6), ask.rng.randint(7, 9))
    weight, bias = ask.randn(rows, columns, dtype=dtype), ask.randn(columns, dtype=dtype)
    ours = ask.given("gpt2.Conv1D")
    if foreign:
        return Conv(ask.w.keep(KIT.foreign(ours.forward, weight, bias)), weight, bias, "Conv1D")
    made = KIT.filled(ours(columns, rows), {"weight": weight, "bias": bias})
    return Conv(ask.w.keep(made), weight, bias, "Conv1D")


def linear(ask: Asking, dtype: str = "float64") -> Conv:
    """An nn.Linear in the same dress."""
    d_in = ask.rng.randint(4, 6)
    base = ask.linear((ask.rng.randint(7, 9), d_in), dtype=dtype)
    bias = torch.zeros(0) if base.bias is None else base.bias
    return Conv(base.it, base.weight.T, bias, "Linear")


def bases(ask: Asking, dtype: str = "float64") -> list[Conv]:
    """A linear and two Conv1Ds, one of another package."""
    return [linear(ask, dtype), conv1d(ask, None, dtype), conv1d(ask, None, dtype, foreign=True)]


# --- models ---------------------------------------------------------------------------------------


@cache
def _shell(kind: str, sizes: tuple[tuple[str, int], ...]) -> nn.Module:
    """A model here, for its shapes, its names and its forward."""
    config = dict(sizes)
    made = GPT2(GPT2Config(**config)) if kind == "gpt2" else MiniGPT(MiniGPTConfig(**config))  # type: ignore[arg-type]  # none of these is tie_head
    return made.double().requires_grad_(False)


@dataclass(frozen=True)
class Model:
    """A GPT there and its values here, by parameter name."""

    it: Expr
    shell: nn.Module
    values: dict[str, Tensor]
    config: dict[str, int]

    def names(self, ends: Sequence[str]) -> list[str]:
        """The modules whose dotted names have one of the ends, in the model's order."""
        found = [name for name, _ in self.shell.named_modules()]
        return [name for name in found if name.endswith(tuple("." + end for end in ends))]

    def sizes(self, name: str) -> tuple[int, int]:
        """(in, out) of the linear or Conv1D with this name."""
        rows, columns = self.values[f"{name}.weight"].shape
        return (rows, columns) if self.flipped(name) else (columns, rows)

    def flipped(self, name: str) -> bool:
        return isinstance(self.shell.get_submodule(name), Conv1D)

    def out(self, tokens: Tensor, scaling: float = 1.0, pairs: Pairs | None = None) -> Tensor:
        """The logits with the updates in the weights."""
        now = dict(self.values)
        for path, (a, b) in (pairs or {}).items():
            update = scaling * (b.double() @ a.double())
            now[f"{path}.weight"] = now[f"{path}.weight"] + (
                update.T if self.flipped(path) else update
            )
        with torch.no_grad():
            said: Tensor = torch.func.functional_call(self.shell, now, (tokens,))
        return said


def minigpt(ask: Asking, **sizes: int) -> Model:
    """A small MiniGPT in float64 whose every value the judge has drawn."""
    usual = {"vocab_size": 11, "block_size": 6, "n_layer": 2, "n_head": 2, "d_model": 8}
    own = usual | {"d_ff": ask.rng.choice((10, 12))} | sizes
    return _model(ask, "minigpt", own, ("tok_emb.weight", "ln1.weight", "ln2.weight"))


def gpt2(ask: Asking, **sizes: int) -> Model:
    """A small GPT-2, the same."""
    usual = {"vocab_size": 11, "n_positions": 6, "n_layer": 2, "n_head": 2}
    own = usual | {"n_embd": ask.rng.choice((6, 8))} | sizes
    return _model(ask, "gpt2", own, ("transformer.wte.weight", "ln_1.weight", "ln_2.weight"))


def _model(ask: Asking, kind: str, sizes: dict[str, int], names: Sequence[str]) -> Model:
    shell, values = _shell(kind, tuple(sizes.items())), {}
    for key, param in shell.named_parameters():
        drawn = ask.randn(*param.shape) * 0.3
        values[key] = drawn + 1 if key.endswith(tuple(names[1:])) else drawn
    ours = "gpt2.GPT2" if kind == "gpt2" else "minigpt.MiniGPT"
    it = ask.w.keep(ask.given(ours)(ask.given(f"{ours}Config")(**sizes)).double())
    ask.w.do(it.load_state_dict(values | {"lm_head.weight": values[names[0]]}))
    return Model(it, shell, values, sizes)


def other(model: Model, **sizes: int) -> Model:
    """A MiniGPT of which there are only the shapes, here, some of them others than model's."""
    config = model.config | sizes
    shell = _shell("minigpt", tuple(config.items()))
    return Model(name("torch"), shell, dict(shell.named_parameters()), config)


def tokens(ask: Asking, model: Model, rows: int = 3) -> Tensor:
    return torch.randint(model.config["vocab_size"], (rows, 5), generator=ask.torch_rng)


def draw_pairs(ask: Asking, model: Model, r: int = 2, ends: Sequence[str] = TARGETS) -> Pairs:
    """A and B for each module whose name has one of the ends."""
    found = {}
    for key in model.names(ends):
        d_in, d_out = model.sizes(key)
        found[key] = ask.randn(r, d_in), ask.randn(d_out, r)
    return found


def branched(ask: Asking, model: Expr, pairs: Mapping[str, object], alpha: float) -> Expr:
    """Adapters of the judge's own there, by name, in the places of their bases."""
    return ask.w.keep(KIT.branched(model, pairs, alpha))


def logits(ask: Asking, model: Model | Expr, given: Tensor) -> Expr:
    """What a model there says at this moment."""
    it = model.it if isinstance(model, Model) else model
    return ask.w.keep(ask.kit.run(it, given, False))


# --- claims ---------------------------------------------------------------------------------------


def wrong(ask: Asking, what: str, facts: Mapping[str, bool], nth: int = 0) -> None:
    """Each of these holds; the message names those that do not."""
    ask.see(what, [fact for fact, holds in facts.items() if not holds], [], nth)


def all_refused(ask: Asking, things: Mapping[str, object], kinds: Sequence[str] = REFUSED) -> None:
    """Each of them raises one of these kinds."""
    told = ask.w.refusals(list(things.values()), *kinds)
    taken = [what for what, said in zip(things, told, strict=True) if said is None]
    ask.see("taken though it should be refused", taken, [])


def refused_whole(
    ask: Asking, model: Expr, things: Mapping[str, Expr], kinds: Sequence[str] = REFUSED
) -> None:
    """Each of them is refused, one after the other, and nothing of the model is changed by any."""
    was = before(ask, model)
    told = [ask.w.keep(tried(thing)) for thing in things.values()]
    found: list[Any] = ask.w.ask(told)
    for raised in found:
        if isinstance(raised, Raised) and not set(kinds) & set(raised.kinds):
            raise raised
    taken = [what for what, raised in zip(things, found, strict=True) if raised is None]
    ask.see("(taken, changed)", (taken, changes(ask, was)), ([], []))


def same_pairs(got: Any, want: Mapping[str, tuple[Tensor, Tensor]]) -> bool:
    """A and B of each name, to the bit and in the same dtype."""
    if not isinstance(got, dict) or got.keys() != want.keys():
        return False
    return all(
        isinstance(got[name], list | tuple)
        and len(got[name]) == 2
        and all(
            isinstance(mine, Tensor) and mine.dtype == true.dtype and gap(mine, true) == 0.0
            for mine, true in zip(got[name], pair, strict=True)
        )
        for name, pair in want.items()
    )
