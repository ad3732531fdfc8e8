"""LoRA; things are made by factories, among them functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")

Check = Callable[[float], None]
Matcher = Callable[[str], set[str]]
Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


def make_check(name: str, good: Callable[[float], bool], wanted: str) -> Check:
    def check(value: float) -> None:
        if not good(value):
            raise ValueError(f"{name}: must be {wanted}, is {value}")

    return check


def make_matcher(targets: Sequence[str]) -> Matcher:
    def match(name: str) -> set[str]:
        return {t for t in targets if name == t or name.endswith("." + t)}

    return match


check_r = make_check("r", lambda r: r >= 1, "at least 1")
check_dropout = make_check("dropout", lambda p: 0 <= p < 1, "in [0, 1)")


def make_A(base: nn.Linear, r: int) -> nn.Parameter:
    A = base.weight.new_empty(r, base.in_features)
    nn.init.kaiming_uniform_(A, a=math.sqrt(5))
    return nn.Parameter(A)


def make_B(base: nn.Linear, r: int) -> nn.Parameter:
    return nn.Parameter(base.weight.new_zeros(base.out_features, r))


def make_hook(layer: LoRALinear) -> Hook:
    def add_branch(base: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return out + layer.branch(inputs[0])

    return add_branch


class LoRALinear(nn.Module):
    base: nn.Linear
    r: int
    alpha: float
    scaling: float
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    dropout: nn.Dropout

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: must be nn.Linear, is {type(base).__name__}")
        check_r(r)
        check_dropout(dropout)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = make_A(base, r)
        self.lora_B = make_B(base, r)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)
        base.register_forward_hook(make_hook(self))

    def branch(self, x: Tensor) -> Tensor:
        return self.scaling * F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)  # the hook has added the branch
        return out

    def merge_(self) -> None:
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            update = self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))
            weight.copy_(weight.to(wide) + update)
            self.lora_A.zero_()
            self.lora_B.zero_()


def make_adapters(
    linears: Mapping[str, nn.Linear], r: int, alpha: float, dropout: float
) -> dict[str, LoRALinear]:
    """name -> adapter, the same one for two names of one linear."""
    by_linear: dict[nn.Linear, LoRALinear] = {}
    by_name: dict[str, LoRALinear] = {}
    for name, linear in linears.items():
        if linear not in by_linear:
            by_linear[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        by_name[name] = by_linear[linear]
    return by_name


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    match = make_matcher(target_modules)
    closed = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    linears = {
        name: m
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and m not in closed and match(name)
    }
    unmatched = set(target_modules)
    for name in linears:
        unmatched -= match(name)
    if unmatched:
        raise ValueError(f"target_modules: must name bare linears, is none: {sorted(unmatched)}")
    for name, adapter in make_adapters(linears, r, alpha, dropout).items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapter)
    keep = {p for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    for p in model.parameters():
        if p not in keep:
            p.requires_grad_(False)
    return list(linears)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }


def make_state_check(own: Mapping[str, Tensor]) -> Callable[[Mapping[str, Tensor]], None]:
    def check(state: Mapping[str, Tensor]) -> None:
        missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or extra:
            raise KeyError(f"state: missing {missing}, unexpected {extra}")
        for name, value in state.items():
            if value.shape != own[name].shape:
                raise ValueError(
                    f"{name}: must be {tuple(own[name].shape)}, is {tuple(value.shape)}"
                )
            if not value.isfinite().all():
                raise ValueError(f"{name}: must be finite")

    return check


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    make_state_check(lora_state_dict(model))(state)
    params = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            params[name].copy_(value)
