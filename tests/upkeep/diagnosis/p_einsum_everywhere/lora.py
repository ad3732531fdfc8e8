from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, einsum, nn

# Letters: i = in_features, o = out_features, k = rank, ... = whatever comes before.

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """base(x) + (alpha / r) * x A^T B^T."""

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
            raise TypeError("base: wanted nn.Linear, got " + type(base).__name__)
        if r < 1:
            raise ValueError("r: wanted at least 1, got " + str(r))
        if not (0 <= dropout < 1):
            raise ValueError("dropout: wanted a number in [0, 1), got " + str(dropout))
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling: float = alpha / r
        w = base.weight
        a = torch.empty((r, base.in_features), dtype=w.dtype, device=w.device)
        b = torch.empty((base.out_features, r), dtype=w.dtype, device=w.device)
        self.lora_A = nn.Parameter(nn.init.kaiming_uniform_(a, a=math.sqrt(5.0)))
        self.lora_B = nn.Parameter(nn.init.normal_(b, mean=0.0, std=0.02))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        frozen: Tensor = self.base(x)
        low = einsum("...i,ki->...k", self.dropout(x), self.lora_A)
        return frozen + self.scaling * einsum("...k,ok->...o", low, self.lora_B)

    def merge_(self) -> None:
        with torch.no_grad():
            W, A, B = self.base.weight, self.lora_A, self.lora_B
            t = torch.promote_types(W.dtype, torch.float32)
            W.copy_(W.to(t) + self.scaling * einsum("ok,ki->oi", B.to(t), A.to(t)))
            A.zero_()
            B.zero_()


def _loras(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def _factors(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, layer in _loras(model):
        head = name + "." if name else ""
        yield head + "lora_A", layer.lora_A
        yield head + "lora_B", layer.lora_B


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # 1. look
    inside = [layer.base for _, layer in _loras(model)]
    hits: dict[str, list[str]] = {t: [] for t in target_modules}
    chosen: dict[str, nn.Linear] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and not any(module is b for b in inside):
            for t in target_modules:
                if name == t or name.endswith(f".{t}"):
                    hits[t].append(name)
                    chosen[name] = module
    empty = [t for t, names in hits.items() if not names]
    if empty:
        raise ValueError(f"target_modules: nothing (left) to wrap for {empty}")
    # 2. replace
    made: dict[nn.Module, LoRALinear] = {}
    for name, linear in chosen.items():
        if linear not in made:
            made[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        where, _, last = name.rpartition(".")
        setattr(model.get_submodule(where), last, made[linear])
    # 3. freeze
    trained = {id(p) for _, p in _factors(model)}
    for p in model.parameters():
        if id(p) not in trained:
            p.requires_grad_(False)
    return list(chosen)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in _factors(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    mine = dict(_factors(model))
    missing = sorted(set(mine) - set(state))
    unexpected = sorted(set(state) - set(mine))
    if missing or unexpected:
        raise KeyError(f"missing: {missing}; unexpected: {unexpected}")
    for name, p in mine.items():
        got = state[name]
        if got.shape != p.shape:
            raise ValueError(f"{name}: wanted {list(p.shape)}, got {list(got.shape)}")
        if not got.to(p.dtype).isfinite().all().item():
            raise ValueError(f"{name}: wanted finite numbers only")
    with torch.no_grad():
        for name, p in mine.items():
            p.copy_(state[name])
