"""Models there with their twins here: a row of linears, and a MiniGPT.

The twins compute in float64 with dense weights W + s B A, in a process that never meets a
submission. Leaves out: module trees that compute nothing (trees.py), and the claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minituner.grading.checks.asking import Asking, Wrong
from minituner.grading.expr import Expr
from minituner.grading.talk import Talk
from minituner.minigpt import MiniGPT, MiniGPTConfig

SIZES = {"vocab_size": 13, "block_size": 6, "n_layer": 1, "n_head": 2, "d_model": 12, "d_ff": 20}
SMALL = MiniGPTConfig(**SIZES)  # type: ignore[arg-type]  # none of these is tie_head
SHELL = MiniGPT(SMALL).double().requires_grad_(False)  # its shapes and its forward, no values
FACTORS = ("lora_A", "lora_B")
NAMES = [
    f"blocks.{name}" for name in ("0.q_proj", "0.mlp.fc1", "1.q_proj", "1.v_proj", "1.mlp.fc2")
]


@dataclass
class Model:
    """A model there, its own values here, and the adapters that were filled in.

    `values` are those of the model as it was before any wrapping, by parameter name.
    """

    ask: Asking
    it: Expr
    values: dict[str, Tensor]
    factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    scale: float = 1.0

    def wrap(self, **options: object) -> list[str]:
        """wrap_minigpt_with_lora there; the names it returns, as a list of str."""
        names = self.ask.w.ask(self.ask.star("wrap_minigpt_with_lora")(self.it, **options))
        self.ask.see("type(returned)", type(names).__name__, "list")
        return [str(name) for name in names]

    def fill(self, names: Sequence[str], scale: float) -> None:
        """Give the adapters with these names values of the judge's, in the shapes they have."""
        self.scale = scale
        ask = self.ask
        kinds = ask.w.ask(ask.kit.sizes(self.it, list(names)))
        for name, (a, b) in zip(names, kinds, strict=True):
            sizes = [*a, *b]
            if len(sizes) != 4 or not all(type(n) is int and 0 < n < 65 for n in sizes):
                raise Wrong(f"shapes of A, B in {name} = {a}, {b}", "(r, in), (out, r)", 0)
            self.factors[name] = ask.randn(*a), ask.randn(*b) / 2
        ask.w.do(ask.kit.fill_in(self.it, self.factors))

    def dense(self) -> dict[str, Tensor]:
        """The adapted weights with every update folded in, W + s B A."""
        pairs = self.factors.items()
        keys = ((f"{name}.weight", A, B) for name, (A, B) in pairs)
        return {key: self.values[key] + self.scale * B @ A for key, A, B in keys}

    def out(self, x: Tensor) -> Tensor:
        """What the model should say, in float64."""
        raise NotImplementedError

    def input(self) -> Tensor:
        raise NotImplementedError

    @property
    def state(self) -> dict[str, Tensor]:
        """The adapters by their keys, as lora_state_dict should name them."""
        return {
            f"{n}.{f}": v
            for n, ab in self.factors.items()
            for f, v in zip(FACTORS, ab, strict=True)
        }


class Net(Model):
    """Linears in a row, tanh between (kit.Net); `order` names them as they come."""

    order: tuple[str, ...] = ()

    def out(self, x: Tensor) -> Tensor:
        now = self.values | self.dense()
        for index, name in enumerate(self.order):
            x = (x if index == 0 else x.tanh()) @ now[f"{name}.weight"].double().T
            x = x + now[f"{name}.bias"] if f"{name}.bias" in now else x
        return x

    def input(self) -> Tensor:
        return self.ask.randn(4, self.values[f"{self.order[0]}.weight"].shape[1])


class Gpt(Model):
    """A small MiniGPT."""

    def out(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            said: Tensor = torch.func.functional_call(SHELL, self.values | self.dense(), (x,))
        return said

    def input(self) -> Tensor:
        return torch.randint(0, 13, (3, 6), generator=self.ask.torch_rng)


def net(
    ask: Asking,
    dtype: str = "float64",
    worker: Talk | None = None,
    values: dict[str, Tensor] | None = None,
) -> Net:
    """A row of linears of different sizes, some with a bias.

    Args:
        values: another net's, for a copy of it.
    """
    w, names, sizes = worker or ask.w, (*NAMES, "lm_head"), [ask.rng.randint(5, 8)]
    for _ in names:
        sizes.append(ask.rng.choice([size for size in range(5, 9) if size != sizes[-1]]))
    shapes: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(names):
        shapes[f"{name}.weight"] = (sizes[index + 1], sizes[index])
        if "fc" in name or name == "lm_head":
            shapes[f"{name}.bias"] = (sizes[index + 1],)
    values = values or {name: ask.randn(*s, dtype=dtype) / 2 for name, s in shapes.items()}
    pairs = [(values[f"{name}.weight"], values.get(f"{name}.bias")) for name in names]
    made = Net(ask, w.keep(ask.kit.net(names, pairs)), values)
    made.order = names
    return made


def gpt(ask: Asking) -> Gpt:
    """A small MiniGPT in float64 whose every value the judge has drawn."""
    values: dict[str, Tensor] = {}
    for name, param in SHELL.named_parameters():
        drawn = ask.randn(*param.shape) * 0.2
        values[name] = drawn + 1 if name.endswith(("ln1.weight", "ln2.weight")) else drawn
    config = ask.given("minigpt.MiniGPTConfig")(**SIZES)
    it = ask.w.keep(ask.given("minigpt.MiniGPT")(config).double())
    ask.w.do(it.load_state_dict(values | {"lm_head.weight": values["tok_emb.weight"]}))
    return Gpt(ask, it, values)


def wrapped(ask: Asking, dropout: float = 0.0, r: int = 0) -> Net:
    """A net with two adapters a block, without and with a bias, A and B filled."""
    model = net(ask)
    adapt(model, dropout, r)
    return model


def adapt(model: Model, dropout: float = 0.0, r: int = 0) -> None:
    """Wrap q_proj and mlp.fc2, and fill A and B."""
    r, scale = r or model.ask.rng.choice((2, 3)), model.ask.rng.choice((0.75, 1.5))
    targets = ("q_proj", "mlp.fc2")
    names = model.wrap(r=r, alpha=r * scale, target_modules=targets, dropout=dropout)
    model.fill(names, scale)
