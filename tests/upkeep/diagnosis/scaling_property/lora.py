"""LoRALinear with derived quantities as properties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.functional import dropout as random_drop
from torch.nn.functional import linear

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
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"`base` must be nn.Linear; got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"`r` must be at least 1; got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1); got {dropout}")

        self.base = base
        self.r = r
        self.alpha = alpha
        self._p = dropout
        self.lora_A = nn.Parameter(self._blank(r, base.in_features))
        self.lora_B = nn.Parameter(self._blank(base.out_features, r))
        self.reset_parameters()
        self.training = base.training
        if freeze_base:
            base.requires_grad_(False)

    def _blank(self, rows: int, columns: int) -> Tensor:
        weight = self.base.weight
        return torch.zeros(rows, columns, dtype=weight.dtype, device=weight.device)

    def reset_parameters(self) -> None:
        init.kaiming_uniform_(self.lora_A)
        init.zeros_(self.lora_B)

    @property
    def scaling(self) -> float:
        """alpha / r, computed on demand: there is nothing to save and nothing to round."""
        return self.alpha / self.r

    @property
    def compute_dtype(self) -> torch.dtype:
        """At least float32."""
        return torch.promote_types(self.base.weight.dtype, torch.float32)

    @property
    def delta(self) -> Tensor:
        """The dense update (out, in), wide."""
        wide = self.compute_dtype
        return self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        z = random_drop(x, self._p, self.training)
        return y + self.scaling * linear(linear(z, self.lora_A), self.lora_B)

    @torch.no_grad()
    def merge_(self) -> None:
        weight = self.base.weight
        weight.copy_(weight.to(self.compute_dtype) + self.delta)
        init.zeros_(self.lora_A)
        init.zeros_(self.lora_B)

    @property
    def factors(self) -> tuple[tuple[str, nn.Parameter], tuple[str, nn.Parameter]]:
        return ("lora_A", self.lora_A), ("lora_B", self.lora_B)


def _layers(model: nn.Module) -> list[tuple[str, LoRALinear]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, LoRALinear)]


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    off_limits = {layer.base for _, layer in _layers(model)}
    named = [
        (name, m)
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and m not in off_limits
    ]
    wanted: dict[str, nn.Linear] = {}
    for target in target_modules:
        these = {name: m for name, m in named if f".{name}".endswith(f".{target}")}
        if not these:
            raise ValueError(f"`target_modules`: {target!r} fits no linear that is not yet wrapped")
        wanted |= these

    adapters: dict[nn.Linear, LoRALinear] = {}
    for name, m in wanted.items():
        if m not in adapters:
            adapters[m] = LoRALinear(m, r, alpha, dropout)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, adapters[m])

    alive = {id(p) for _, layer in _layers(model) for _, p in layer.factors}
    for p in model.parameters():
        p.requires_grad = p.requires_grad and id(p) in alive
    return sorted(wanted)


def _entries(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        (f"{name}.{which}" if name else which): p
        for name, layer in _layers(model)
        for which, p in layer.factors
    }


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {key: p.detach().clone() for key, p in _entries(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    entries = _entries(model)
    if missing := entries.keys() - state.keys():
        raise KeyError(
            f"`state` lacks {sorted(missing)} (unexpected: {sorted(state.keys() - entries.keys())})"
        )
    if unexpected := state.keys() - entries.keys():
        raise KeyError(f"`state` has unexpected {sorted(unexpected)}")
    for key, p in entries.items():
        value = state[key]
        if value.shape != p.shape:
            raise ValueError(f"{key} must be {tuple(p.shape)}; got {tuple(value.shape)}")
        if not value.to(p.dtype).isfinite().all():
            raise ValueError(f"{key} must be finite; got NaN or infinity")
    with torch.no_grad():
        for key, p in entries.items():
            p.copy_(state[key])
