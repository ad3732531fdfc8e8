"""The style of a physicist: every product is an einsum with its indices spelled out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, einsum, nn

ALL_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """y_o = W_oi x_i + b_o + (α/r) B_or A_ri x_i"""

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base must be an nn.Linear, got {type(base)}")
        if r <= 0:
            raise ValueError(f"r must be a positive integer, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        super().__init__()
        o, i = base.weight.shape
        self.base = base
        self.r, self.alpha, self.scaling = r, alpha, alpha / r
        self.p_drop = nn.Dropout(p=dropout)
        self.lora_A = nn.Parameter(base.weight.new_empty((r, i)))
        self.lora_B = nn.Parameter(base.weight.new_zeros((o, r)))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5.0))
        if freeze_base:
            base.weight.requires_grad_(False)
            if base.bias is not None:
                base.bias.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        h = einsum("...i,ri->...r", self.p_drop(x), self.lora_A)
        return y + self.scaling * einsum("...r,or->...o", h, self.lora_B)

    def merge_(self) -> None:
        with torch.no_grad():
            W = self.base.weight
            wide = torch.float64 if W.dtype == torch.float64 else torch.float32
            dW = einsum("or,ri->oi", self.lora_B.to(wide), self.lora_A.to(wide))
            W.copy_(W.to(wide) + self.scaling * dW)
            self.lora_A.zero_()
            self.lora_B.zero_()


def _adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def _factors(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, layer in _adapters(model):
        prefix = name + "." if name else ""
        yield prefix + "lora_A", layer.lora_A
        yield prefix + "lora_B", layer.lora_B


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = ALL_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    inside = {layer.base for _, layer in _adapters(model)}
    linears = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear) and module not in inside
    }
    # Grouped by target, so the names come back in the order the targets were given in.
    by_target = {
        t: [name for name in linears if f".{name}".endswith(f".{t}")] for t in target_modules
    }
    lonely = [t for t, names in by_target.items() if not names]
    if lonely:
        raise ValueError(f"no nn.Linear is left to wrap for target_modules {lonely}")
    wrapped: dict[str, None] = {name: None for names in by_target.values() for name in names}
    made: dict[nn.Linear, LoRALinear] = {}
    for name in wrapped:
        linear = linears[name]
        if linear not in made:
            made[linear] = LoRALinear(linear, r, alpha, dropout)
        path = name.split(".")
        setattr(model.get_submodule(".".join(path[:-1])), path[-1], made[linear])
    trainable = {p for _, p in _factors(model)}
    for p in model.parameters():
        if p not in trainable:
            p.requires_grad_(False)
    return list(wrapped)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _factors(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    mine = dict(_factors(model))
    if mine.keys() != state.keys():
        missing, extra = mine.keys() - state.keys(), state.keys() - mine.keys()
        raise KeyError(f"state does not fit: missing={sorted(missing)} unexpected={sorted(extra)}")
    misshapen = {
        n: (tuple(state[n].shape), tuple(p.shape))
        for n, p in mine.items()
        if state[n].shape != p.shape
    }
    if misshapen:
        raise ValueError(f"wrong shape, as name: (got, expected): {misshapen}")
    infinite = [n for n, v in state.items() if not torch.isfinite(v).all()]
    if infinite:
        raise ValueError(f"expected finite values, got nan or inf in {infinite}")
    with torch.no_grad():
        for n, p in mine.items():
            p.copy_(state[n])
