"""LoRA; the model is walked by hand, child by child."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base is a {type(base).__name__}, expected nn.Linear")
        if r < 1:
            raise ValueError(f"r is {r}, expected at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}, expected [0, 1)")
        super().__init__()
        self.base = base
        self.r = r
        self.alpha = alpha
        self.lora_A = nn.Parameter(torch.empty_like(base.weight.new_empty(r, base.in_features)))
        self.lora_B = nn.Parameter(torch.zeros_like(base.weight.new_empty(base.out_features, r)))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            self.base.requires_grad_(False)

    @property
    def scaling(self) -> float:
        return self.alpha / self.r

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.lora_A, self.lora_B
        return self.base(x) + self.scaling * (self.dropout(x) @ a.t() @ b.t())

    def merge_(self) -> None:
        with torch.no_grad():
            w = self.base.weight
            t = torch.promote_types(w.dtype, torch.float32)
            w.copy_(w.to(t) + self.scaling * (self.lora_B.to(t) @ self.lora_A.to(t)))
            self.lora_A.zero_()
            self.lora_B.zero_()


Visitor = Callable[[nn.Module, str, nn.Module, str], None]


def visit(parent: nn.Module, do: Visitor, path: str = "") -> None:
    """Calls do(parent, attribute, child, full name) for each child, all the way down.

    named_children() would leave out the second name of a shared child, so _modules is read.
    """
    for attribute, child in list(parent._modules.items()):
        if child is None:
            continue
        full = path + attribute
        do(parent, attribute, child, full)
        if not isinstance(child, LoRALinear):
            visit(child, do, full + ".")


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    bases = [m.base for m in model.modules() if isinstance(m, LoRALinear)]
    sites: list[tuple[nn.Module, str, nn.Linear]] = []
    open_targets = list(target_modules)

    def look(parent: nn.Module, attribute: str, child: nn.Module, full: str) -> None:
        if not isinstance(child, nn.Linear) or any(child is b for b in bases):
            return
        hits = [t for t in target_modules if full == t or full.endswith("." + t)]
        if hits:
            sites.append((parent, attribute, child))
        for t in hits:
            while t in open_targets:
                open_targets.remove(t)

    visit(model, look)
    if open_targets:
        raise ValueError(f"target_modules: no linear to wrap for {', '.join(open_targets)}")

    made: dict[nn.Linear, LoRALinear] = {}
    for parent, attribute, linear in sites:
        if linear not in made:
            made[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        setattr(parent, attribute, made[linear])

    mine: set[int] = set()
    names: list[str] = []

    def note(parent: nn.Module, attribute: str, child: nn.Module, full: str) -> None:
        if isinstance(child, LoRALinear):
            mine.update((id(child.lora_A), id(child.lora_B)))
            names.append(full)

    visit(model, note)
    for p in model.parameters():
        if id(p) not in mine:
            p.requires_grad_(False)
    return names


def collect(model: nn.Module) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}

    def take(parent: nn.Module, attribute: str, child: nn.Module, full: str) -> None:
        if isinstance(child, LoRALinear):
            found[full + ".lora_A"] = child.lora_A
            found[full + ".lora_B"] = child.lora_B

    if isinstance(model, LoRALinear):
        return {"lora_A": model.lora_A, "lora_B": model.lora_B}
    visit(model, take)
    return found


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in collect(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    here = collect(model)
    missing = sorted(n for n in here if n not in state)
    unexpected = sorted(n for n in state if n not in here)
    if missing or unexpected:
        raise KeyError(f"missing {missing}, unexpected {unexpected}")
    for name, value in state.items():
        p = here[name]
        if value.shape != p.shape:
            raise ValueError(f"{name}: shape {tuple(value.shape)}, expected {tuple(p.shape)}")
        if not value.to(p.dtype).isfinite().all():
            raise ValueError(f"{name}: values are not finite")
    with torch.no_grad():
        for name, value in state.items():
            here[name].copy_(value)
