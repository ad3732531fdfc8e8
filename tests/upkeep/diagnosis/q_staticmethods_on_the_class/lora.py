"""LoRA, with most of the machinery kept as methods of the class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """base(x) + scaling * x A^T B^T."""

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        super().__init__()
        self.require(
            isinstance(base, nn.Linear), "base", "nn.Linear", type(base).__name__, TypeError
        )
        self.require(r >= 1, "r", "at least 1", r)
        self.require(0.0 <= dropout < 1.0, "dropout", "a value in [0, 1)", dropout)
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = self.blank(r, base.in_features, base.weight)
        self.lora_B = self.blank(base.out_features, r, base.weight)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    @staticmethod
    def require(
        fine: bool, what: str, wanted: str, got: object, error: type[Exception] = ValueError
    ) -> None:
        if not fine:
            raise error(f"{what}: expected {wanted}, got {got}")

    @staticmethod
    def blank(rows: int, columns: int, like: Tensor) -> nn.Parameter:
        return nn.Parameter(torch.zeros(rows, columns, dtype=like.dtype, device=like.device))

    @classmethod
    def inside(cls, model: nn.Module) -> Iterator[LoRALinear]:
        return (m for m in model.modules() if isinstance(m, cls))

    @classmethod
    def named_factors(cls, model: nn.Module) -> dict[str, nn.Parameter]:
        own = {id(p): p for m in cls.inside(model) for p in m.factors()}
        every = model.named_parameters(remove_duplicate=False)
        return {name: p for name, p in every if id(p) in own}

    def factors(self) -> tuple[nn.Parameter, nn.Parameter]:
        return self.lora_A, self.lora_B

    def forward(self, x: Tensor) -> Tensor:
        shrunk = F.linear(self.dropout(x), self.lora_A)
        grown = F.linear(shrunk, self.lora_B)
        out: Tensor = self.base(x)
        return out + grown * self.scaling

    def merge_(self) -> None:
        weight = self.base.weight
        kind = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            a, b = (p.to(kind) for p in self.factors())
            weight.copy_(weight.to(kind).add(b @ a, alpha=self.scaling))
            for p in self.factors():
                p.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    adapted = [layer.base for layer in LoRALinear.inside(model)]
    by_target: dict[str, list[str]] = {target: [] for target in target_modules}
    linears: dict[str, nn.Linear] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and all(module is not other for other in adapted):
            for target, names in by_target.items():
                if name == target or name.endswith("." + target):
                    names.append(name)
                    linears[name] = module
    empty = [target for target, names in by_target.items() if not names]
    if empty:
        raise ValueError(f"target_modules: expected a linear for each target, got none for {empty}")

    once = dict.fromkeys(linears.values())
    adapters = {linear: LoRALinear(linear, r, alpha, dropout) for linear in once}
    for name, linear in linears.items():
        *above, attribute = name.split(".")
        setattr(model.get_submodule(".".join(above)), attribute, adapters[linear])

    training = {id(p) for layer in LoRALinear.inside(model) for p in layer.factors()}
    for p in model.parameters():
        p.requires_grad_(p.requires_grad and id(p) in training)
    return list(linears)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The LoRA part of model.state_dict()."""
    return {k: v.detach().clone() for k, v in model.state_dict().items() if "lora_" in k}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    factors = LoRALinear.named_factors(model)
    missing = [k for k in factors if k not in state]
    unexpected = [k for k in state if k not in factors]
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    for k, p in factors.items():
        if state[k].shape != p.shape:
            raise ValueError(f"{k}: expected {tuple(p.shape)}, got {tuple(state[k].shape)}")
        if not state[k].to(p.dtype).isfinite().all():
            raise ValueError(f"{k}: expected finite values, got NaN or infinity")
    with torch.no_grad():
        for k, p in factors.items():
            p.copy_(state[k])
