"""y = W x + b + s·B·A·x, s = α/r."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base ∈ nn.Linear expected, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r ≥ 1 (at least 1) expected, got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout ∈ [0, 1) expected, got {dropout}")
        W = base.weight
        m, n = W.shape
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = nn.Parameter(torch.empty(r, n, dtype=W.dtype, device=W.device))  # r × n
        self.lora_B = nn.Parameter(torch.zeros(m, r, dtype=W.dtype, device=W.device))  # m × r
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.δ = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        A, B, s = self.lora_A, self.lora_B, self.scaling
        return self.base(x) + s * (self.δ(x) @ A.mT @ B.mT)

    @torch.no_grad()
    def merge_(self) -> None:
        W, A, B, s = self.base.weight, self.lora_A, self.lora_B, self.scaling
        τ = torch.promote_types(W.dtype, torch.float32)
        W.copy_(s * (W.to(τ) + B.to(τ) @ A.to(τ)))
        A.zero_()
        B.zero_()


def _Λ(model: nn.Module) -> dict[str, LoRALinear]:
    """Every adapter λ by its name."""
    return {ν: λ for ν, λ in model.named_modules() if isinstance(λ, LoRALinear)}


def _Θ(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every factor θ by its name."""
    Θ: dict[str, nn.Parameter] = {}
    for ν, λ in _Λ(model).items():
        ν = f"{ν}." if ν else ""
        Θ[f"{ν}lora_A"] = λ.lora_A
        Θ[f"{ν}lora_B"] = λ.lora_B
    return Θ


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    taken = {id(λ.base) for λ in _Λ(model).values()}
    μ: dict[str, nn.Linear] = {}  # name → linear
    open_targets = set(target_modules)
    for ν, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and id(module) not in taken:
            if T := {t for t in target_modules if ν == t or ν.endswith("." + t)}:
                μ[ν] = module
                open_targets -= T
    if open_targets:
        raise ValueError(f"target_modules: ∅ for {sorted(open_targets)}, expected a linear each")

    φ: dict[nn.Linear, LoRALinear] = {}  # linear → adapter, one to one
    for ν, linear in μ.items():
        if linear not in φ:
            φ[linear] = LoRALinear(linear, r, alpha, dropout)
        parent, _, child = ν.rpartition(".")
        setattr(model.get_submodule(parent), child, φ[linear])

    Θ = {id(θ) for θ in _Θ(model).values()}
    for p in model.parameters():
        if id(p) not in Θ:
            p.requires_grad_(False)
    return list(μ)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {ν: θ.detach().clone() for ν, θ in _Θ(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    Θ = _Θ(model)
    if Θ.keys() != state.keys():
        missing, unexpected = sorted(Θ.keys() - state.keys()), sorted(state.keys() - Θ.keys())
        raise KeyError(f"missing {missing}, unexpected {unexpected}")
    for ν, θ in Θ.items():
        if state[ν].shape != θ.shape:
            raise ValueError(f"{ν}: {tuple(θ.shape)} expected, got {tuple(state[ν].shape)}")
        if not state[ν].to(θ.dtype).isfinite().all():
            raise ValueError(f"{ν}: |value| < ∞ expected")
    with torch.no_grad():
        for ν, θ in Θ.items():
            θ.copy_(state[ν])
