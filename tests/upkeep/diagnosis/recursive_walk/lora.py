"""LoRA for nn.Linear; the model is walked by recursion over its children."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")

Place = tuple[nn.Module, str, str, nn.Module]  # parent, child's name, dotted name, child


class LoRALinear(nn.Module):
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
            raise TypeError(f"base must be nn.Linear, not {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r must be at least 1, not {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not at {dropout}")

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.p = dropout

        self.lora_A = nn.Parameter(base.weight.new_empty((r, base.in_features)))
        self.lora_B = nn.Parameter(base.weight.new_zeros((base.out_features, r)))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

        self.training = base.training
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        main: Tensor = self.base(x)
        noisy = F.dropout(x, p=self.p, training=self.training)
        return main + F.linear(F.linear(noisy, self.lora_A), self.lora_B) * self.scaling

    @torch.no_grad()
    def merge_(self) -> None:
        target = self.base.weight
        dtype = torch.promote_types(target.dtype, torch.float32)
        total = self.lora_B.to(dtype) @ self.lora_A.to(dtype)
        total = total.mul_(self.scaling).add_(target.to(dtype))
        target.copy_(total)
        self.lora_A.zero_()
        self.lora_B.zero_()


def _walk(parent: nn.Module, prefix: str = "") -> Iterator[Place]:
    """Every module below parent, a shared one once for each of its names."""
    for child_name, child in parent._modules.items():
        if child is None:
            continue
        dotted = f"{prefix}{child_name}"
        yield parent, child_name, dotted, child
        yield from _walk(child, prefix=dotted + ".")


def _hit(dotted: str, target: str) -> bool:
    return dotted == target or dotted.endswith("." + target)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    linears = [place for place in _walk(model) if isinstance(place[3], nn.Linear)]

    for target in target_modules:
        if not any(_hit(dotted, target) for _, _, dotted, _ in linears):
            raise ValueError(f"target_modules: {target} matches no nn.Linear that can be wrapped")

    names: list[str] = []
    cache: dict[nn.Module, LoRALinear] = {}
    for parent, child_name, dotted, child in linears:
        if not any(_hit(dotted, target) for target in target_modules):
            continue
        if isinstance(child, nn.Linear) and child not in cache:
            cache[child] = LoRALinear(child, r, alpha, dropout)
        setattr(parent, child_name, cache[child])
        names.append(dotted)

    _freeze_rest(model)
    return names


def _freeze_rest(model: nn.Module) -> None:
    factors = [p for _, p in _factors(model)]
    for p in model.parameters():
        if not any(p is f for f in factors):
            p.requires_grad_(False)


def _factors(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(full name, Parameter) of every A and B, each once."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            lead = f"{name}." if name else ""
            yield f"{lead}lora_A", module.lora_A
            yield f"{lead}lora_B", module.lora_B


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _factors(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = dict(_factors(model))
    absent = [name for name in own if name not in state]
    foreign = [name for name in state if name not in own]
    if absent or foreign:
        raise KeyError(f"state: missing {absent}, unexpected {foreign}")

    for name, p in own.items():
        got = state[name]
        if got.shape != p.shape:
            raise ValueError(f"{name}: shape must be {tuple(p.shape)}, not {tuple(got.shape)}")
        if not got.to(p.dtype).isfinite().all():
            raise ValueError(f"{name}: every value must be finite")

    with torch.no_grad():
        for name, p in own.items():
            p.copy_(state[name])
