"""The style of someone who hates stale state: scaling is a property, computed when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    base: nn.Linear
    r: int
    alpha: float
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
            raise TypeError(f"base: expected nn.Linear, got {type(base).__qualname__}")
        if r < 1:
            raise ValueError(f"r: expected a rank of 1 or more, got {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.empty_like(base.weight[:1]).repeat(r, 1))
        self.lora_B = nn.Parameter(torch.zeros_like(base.weight[:, :1]).repeat(1, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        if freeze_base:
            for p in base.parameters():
                p.requires_grad_(False)
        self.train(base.training)

    @property
    def scaling(self) -> float:
        return self.alpha / self.r

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    @property
    def delta(self) -> Tensor:
        """(α/r) B A, in float32 or wider."""
        wide = torch.promote_types(self.lora_A.dtype, torch.float32)
        return self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))

    def forward(self, x: Tensor) -> Tensor:
        frozen: Tensor = self.base(x)
        learned = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)
        return frozen + self.scaling * learned

    @torch.no_grad()
    def merge_(self) -> None:
        delta = self.delta
        self.base.weight.copy_(self.base.weight.to(delta.dtype) + delta)
        for factor in (self.lora_A, self.lora_B):
            factor.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = TARGETS,
    dropout: float = 0.05,
) -> list[str]:
    inner = {m.base for m in model.modules() if isinstance(m, LoRALinear)}

    def hits(name: str, target: str) -> bool:
        return name == target or name.endswith("." + target)

    candidates = [
        (name, m)
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and m not in inner
    ]
    unmatched = {t for t in target_modules if not any(hits(name, t) for name, _ in candidates)}
    if unmatched:
        raise ValueError(f"target_modules: no linear to wrap for {sorted(unmatched)}")
    chosen = [(name, m) for name, m in candidates if any(hits(name, t) for t in target_modules)]
    layer_of: dict[nn.Linear, LoRALinear] = {}
    for _, m in chosen:
        if m not in layer_of:
            layer_of[m] = LoRALinear(m, r, alpha, dropout)
    for name, m in chosen:
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, layer_of[m])
    for module in model.modules():
        if not isinstance(module, LoRALinear):
            for p in module.parameters(recurse=False):
                p.requires_grad_(False)
    return [name for name, _ in chosen]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state = {}
    for name, p in model.named_parameters():
        if name.rpartition(".")[2] in ("lora_A", "lora_B"):
            state[name] = p.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    own = lora_state_dict(model)
    missing = own.keys() - state.keys()
    unexpected = state.keys() - own.keys()
    if missing or unexpected:
        raise KeyError(f"missing {sorted(missing)}, unexpected {sorted(unexpected)}")
    resized = [k for k in own if own[k].shape != state[k].shape]
    if resized:
        raise ValueError(f"expected the shapes of this model, got others for {resized}")
    broken = [k for k in own if not state[k].isfinite().all()]
    if broken:
        raise ValueError(f"expected finite numbers, got NaN or inf in {broken}")
    with torch.no_grad():
        for k, v in state.items():
            parameters[k].copy_(v)
