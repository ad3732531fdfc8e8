"""LoRA for linears. What can be computed from the fields is a property, not another field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init

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
            raise TypeError(f"base must be nn.Linear, not {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r must be at least 1, not {r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {dropout}")

        self.base = base
        self.r = r
        self.alpha = alpha
        self.dropout = nn.Dropout(dropout)

        like = base.weight.detach()
        self.lora_A = nn.Parameter(like.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(like.new_empty(base.out_features, r))
        init.kaiming_uniform_(self.lora_A)
        init.zeros_(self.lora_B)

        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    @property
    def scaling(self) -> float:
        return float(self.alpha) / self.r

    @property
    def factors(self) -> tuple[nn.Parameter, nn.Parameter]:
        return self.lora_A, self.lora_B

    @property
    def update(self) -> Tensor:
        """s B A, in float32 or better."""
        A, B = (f.to(torch.promote_types(f.dtype, torch.float32)) for f in self.factors)
        return self.scaling * (B @ A)

    def forward(self, x: Tensor) -> Tensor:
        A, B = self.factors
        h: Tensor = self.base(x)
        return h + F.linear(F.linear(self.dropout(x), A), B) * self.scaling

    @torch.no_grad()
    def merge_(self) -> None:
        W = self.base.weight
        W.copy_(W.to(self.update.dtype) + self.update)
        for f in self.factors:
            f.zero_()


def _adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def _free_linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    bound = {adapter.base for _, adapter in _adapters(model)}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and module not in bound:
            yield name, module


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    open_targets = set(target_modules)
    chosen: list[tuple[str, nn.Linear]] = []
    for name, linear in _free_linears(model):
        hits = {t for t in target_modules if f".{name}".endswith(f".{t}")}
        open_targets -= hits
        if hits:
            chosen.append((name, linear))
    if open_targets:
        raise ValueError(f"target_modules must each match a free linear; not so {open_targets}")

    adapter_for: dict[nn.Linear, LoRALinear] = {}
    for name, linear in chosen:
        if linear not in adapter_for:
            adapter_for[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, attr = name.rpartition(".")
        setattr(model.get_submodule(parent), attr, adapter_for[linear])

    trainable = {id(f) for _, adapter in _adapters(model) for f in adapter.factors}
    for p in model.parameters():
        if id(p) not in trainable:
            p.requires_grad_(False)
    return [name for name, _ in chosen]


def _named_factors(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    mine = {id(f) for _, adapter in _adapters(model) for f in adapter.factors}
    for name, p in model.named_parameters():
        if id(p) in mine:
            yield name, p


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _named_factors(model)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = dict(_named_factors(model))

    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or unexpected:
        raise KeyError(f"missing: {sorted(missing)}, unexpected: {sorted(unexpected)}")

    # one type to compare and to copy in, whatever the file has
    values = {name: value.float() for name, value in state.items()}
    for name, p in own.items():
        if values[name].shape != p.shape:
            raise ValueError(f"{name} must be {tuple(p.shape)}, not {tuple(values[name].shape)}")
        if not values[name].to(p.dtype).isfinite().all():
            raise ValueError(f"{name} must be finite")

    with torch.no_grad():
        for name, p in own.items():
            p.copy_(values[name])
