from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    base: nn.Linear; r: int; alpha: float; scaling: float  # noqa: E702
    lora_A: nn.Parameter; lora_B: nn.Parameter; dropout: nn.Dropout  # noqa: E702

    def __init__(self, base: nn.Linear, r: int = 8, alpha: float = 16.0, dropout: float = 0.0,
                 freeze_base: bool = True) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear): raise TypeError(f"base: not an nn.Linear: {type(base).__name__}")
        if r < 1: raise ValueError(f"r: not >= 1: {r}")
        if not 0 <= dropout < 1: raise ValueError(f"dropout: not in [0, 1): {dropout}")
        self.base, self.r, self.alpha, self.scaling = base, r, alpha, alpha / r
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=5 ** 0.5)
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base: base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x); z: Tensor = self.dropout(x)  # noqa: E702
        return y + (z @ self.lora_A.T @ self.lora_B.T) * self.scaling

    @torch.no_grad()
    def merge_(self) -> None:
        w = self.base.weight; t = torch.promote_types(w.dtype, torch.float32)  # noqa: E702
        w.copy_(w.to(t) + self.scaling * (self.lora_B.to(t) @ self.lora_A.to(t)))
        for p in (self.lora_A, self.lora_B): p.zero_()


def wrap_minigpt_with_lora(model: nn.Module, r: int = 8, alpha: float = 16.0,
                           target_modules: Sequence[str] = MINIGPT_LINEARS,
                           dropout: float = 0.05) -> list[str]:
    done = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    def hit(n: str) -> set[str]: return {t for t in target_modules if n == t or n.endswith("." + t)}
    todo = {n: m for n, m in model.named_modules(remove_duplicate=False)
            if isinstance(m, nn.Linear) and m not in done and hit(n)}
    if idle := set(target_modules).difference(*map(hit, todo)) if todo else set(target_modules):
        raise ValueError(f"target_modules: no match for {sorted(idle)}")
    new = {m: LoRALinear(m, r, alpha, dropout) for m in dict.fromkeys(todo.values())}
    for n, m in todo.items(): setattr(model.get_submodule(n.rpartition(".")[0]), n.rpartition(".")[2], new[m])
    ours = {p for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    for p in set(model.parameters()) - ours: p.requires_grad_(False)
    return [*todo]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith("lora_A" or "lora_B")}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    if own.keys() ^ state.keys(): raise KeyError(f"state: missing {own.keys() - state.keys()}, unexpected {state.keys() - own.keys()}")
    for n, v in state.items():
        if v.shape != own[n].shape: raise ValueError(f"{n}: shape {tuple(v.shape)}, not {tuple(own[n].shape)}")
        if not v.isfinite().all(): raise ValueError(f"{n}: not finite")
    with torch.no_grad(): [model.get_parameter(n).copy_(v) for n, v in state.items()]
