"""The style of a code golfer with manners: as few lines as mypy and the contract allow."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, r: int = 8, alpha: float = 16.0, dropout: float = 0.0, freeze_base: bool = True) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear): raise TypeError(f"base: expected nn.Linear, got {type(base)}")
        if r < 1 or not 0 <= dropout < 1: raise ValueError(f"expected r >= 1 and 0 <= dropout < 1, got {r=}, {dropout=}")
        self.base, self.r, self.alpha, self.scaling, self.drop = base, r, alpha, alpha / r, nn.Dropout(dropout)
        self.lora_A = nn.Parameter(nn.init.kaiming_uniform_(base.weight.new_empty(r, base.in_features), a=5**0.5))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        if freeze_base: base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x) + self.scaling * (self.drop(x) @ self.lora_A.mT @ self.lora_B.mT)
        return y

    @torch.no_grad()
    def merge_(self) -> None:
        W, A, B = self.base.weight, self.lora_A, self.lora_B
        W.copy_(W.double() + self.scaling * B.double() @ A.double())
        A.zero_(), B.zero_()


def _own(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if n.split(".")[-1] in ("lora_A", "lora_B")}


def wrap_minigpt_with_lora(model: nn.Module, r: int = 8, alpha: float = 16.0, target_modules: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2"), dropout: float = 0.05) -> list[str]:
    done = [m.base for m in model.modules() if isinstance(m, LoRALinear)]
    free = {n: m for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, nn.Linear) and m not in done}
    hits = {t: [n for n in free if f".{n}".endswith(f".{t}")] for t in target_modules}
    if none := [t for t in hits if not hits[t]]: raise ValueError(f"target_modules: nothing matches {none}")
    names = sorted({n for ns in hits.values() for n in ns})
    new = {m: LoRALinear(m, r, alpha, dropout) for m in dict.fromkeys(free[n] for n in names)}
    for n in names: model.set_submodule(n, new[free[n]])
    own = _own(model)
    for n, p in model.named_parameters(): p.requires_grad_(n in own)
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in _own(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = _own(model)
    if odd := own.keys() ^ state.keys(): raise KeyError(f"missing or unexpected: {sorted(odd)}")
    if odd := {n for n in own if own[n].shape != state[n].shape or not state[n].isfinite().all()}: raise ValueError(f"wrong shape or not finite: {odd}")
    for n in own: own[n].data.copy_(state[n])
