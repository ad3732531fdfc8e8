from __future__ import annotations

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
        match base:
            case nn.Linear():
                pass
            case _:
                raise TypeError(f"base: {type(base).__name__} is not an nn.Linear")
        if r < 1:
            raise ValueError(f"r: {r} is less than 1, and at least 1 is needed")
        if dropout >= 1.0 or dropout < 0.0:
            raise ValueError(f"dropout: {dropout} lies outside [0, 1)")
        self.base = base.requires_grad_(False) if freeze_base else base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        limit = base.in_features**-0.5
        self.lora_A = nn.Parameter(
            base.weight.detach().new_empty(r, base.in_features).uniform_(-limit, limit)
        )
        self.lora_B = nn.Parameter(base.weight.detach().new_zeros(base.out_features, r))
        self.lora_dropout = nn.Dropout(dropout).train(base.training)
        self.training = base.training

    def forward(self, x: Tensor) -> Tensor:
        branch = self.lora_dropout(x).matmul(self.lora_A.t()).matmul(self.lora_B.t())
        out: Tensor = self.base(x).add(branch.mul(self.scaling))
        return out

    @torch.no_grad()
    def merge_(self) -> None:
        w = self.base.weight
        wide = torch.promote_types(w.dtype, torch.float32)
        delta = self.lora_B.to(wide).matmul(self.lora_dropout(self.lora_A.to(wide)))
        w.copy_(delta.mul(self.scaling).add(w.to(wide)).to(w.dtype))
        self.lora_A.zero_()
        self.lora_B.zero_()


def _named_adapters(model: nn.Module) -> list[tuple[str, LoRALinear]]:
    return [(n, m) for n, m in model.named_modules() if isinstance(m, LoRALinear)]


def _factors(model: nn.Module) -> dict[str, nn.Parameter]:
    return {
        f"{n}.{which}".removeprefix("."): p
        for n, m in _named_adapters(model)
        for which, p in m.named_parameters(recurse=False)
        if which in ("lora_A", "lora_B")
    }


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    used = {m.base for _, m in _named_adapters(model)}
    sites: list[tuple[str, nn.Linear]] = []
    satisfied: set[str] = set()
    for n, m in model.named_modules(remove_duplicate=False):
        if not isinstance(m, nn.Linear) or m in used:
            continue
        hits = [t for t in target_modules if n == t or n.endswith("." + t)]
        satisfied.update(hits)
        if hits:
            sites.append((n, m))
    if lost := sorted(set(target_modules).difference(satisfied)):
        raise ValueError(f"target_modules: {lost} matched no linear left to wrap")

    adapters: dict[nn.Linear, LoRALinear] = {}
    for n, m in sites:
        if m not in adapters:
            adapters[m] = LoRALinear(m, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = n.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters[m])

    keep = {id(p) for p in _factors(model).values()}
    for p in model.parameters():
        if id(p) not in keep:
            p.requires_grad_(False)
    return [n for n, _ in sites]


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in _factors(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = _factors(model)
    if lost := sorted(own.keys() ^ state.keys()):
        sides = [f"{n} ({'missing' if n in own else 'unexpected'})" for n in lost]
        raise KeyError(", ".join(sides))
    for n, p in own.items():
        if state[n].size() != p.size():
            raise ValueError(f"{n}: {tuple(state[n].size())} does not match {tuple(p.size())}")
        if not state[n].to(p.dtype).isfinite().all():
            raise ValueError(f"{n}: holds NaN or infinity")
    with torch.no_grad():
        for n, p in own.items():
            p.copy_(state[n])
