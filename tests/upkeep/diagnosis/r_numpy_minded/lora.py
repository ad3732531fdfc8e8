"""LoRA for somebody who thinks in numpy: *_like, slices, dot, short matrix names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch import matmul as dot

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


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
            raise TypeError(f"base: no nn.Linear but {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: not >= 1 but {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: not in [0, 1) but {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        W = base.weight.detach()
        A = torch.empty_like(W[:r])  # r rows of W's size
        B = torch.zeros_like(W[:, :r])  # r columns of W's size
        lim = W.shape[1] ** -0.5
        A.uniform_(-lim, lim)  # = kaiming_uniform_(A, a=sqrt(5))
        self.lora_A = nn.Parameter(A)
        self.lora_B = nn.Parameter(B)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.scaling * dot(dot(self.dropout(x), self.lora_A.T), self.lora_B.T)

    @torch.no_grad()
    def merge_(self) -> None:
        W = self.base.weight
        f = torch.promote_types(W.dtype, torch.float32)
        W[...] = (W.to(f) + self.scaling * dot(self.lora_B.to(f), self.lora_A.to(f))).to(W.dtype)
        self.lora_A[...] = 0
        self.lora_B[...] = 0


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    old = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    mods = [
        (k, m)
        for k, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and m not in old
    ]
    # mask[i][j]: does linear i match target j?
    mask = [[k == t or k.endswith("." + t) for t in target_modules] for k, _ in mods]
    idle = [t for j, t in enumerate(target_modules) if not any(row[j] for row in mask)]
    if idle:
        raise ValueError(f"target_modules: no linear to wrap for {idle}")
    picked = [km for km, row in zip(mods, mask, strict=True) if any(row)]
    new: dict[nn.Linear, LoRALinear] = {}
    for k, m in picked:
        if m not in new:
            new[m] = LoRALinear(m, r, alpha, dropout)
        i = k.rfind(".")
        setattr(model.get_submodule(k[: max(i, 0)]), k[i + 1 :], new[m])
    ab = {p for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    for p in model.parameters():
        if p not in ab:
            p.requires_grad_(False)
    return [k for k, _ in picked]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {
        k: p.detach().clone()
        for k, p in model.named_parameters()
        if k[k.rfind(".") + 1 :] in ("lora_A", "lora_B")
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {
        k: p for k, p in model.named_parameters() if k[k.rfind(".") + 1 :] in ("lora_A", "lora_B")
    }
    miss, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if miss or extra:
        raise KeyError(f"state: missing {miss}, unexpected {extra}")
    for k, p in own.items():
        if state[k].shape != p.shape:
            raise ValueError(f"{k}: shape not {tuple(p.shape)} but {tuple(state[k].shape)}")
        if not torch.isfinite(state[k]).all():
            raise ValueError(f"{k}: not finite")
    with torch.no_grad():
        for k, p in own.items():
            p[...] = state[k]
