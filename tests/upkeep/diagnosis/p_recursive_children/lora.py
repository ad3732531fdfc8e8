# LoRA by hand. The model is walked by plain recursion over _modules, which, unlike
# named_children(), also shows a child that appears twice.

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        freeze_base: bool = True,
    ) -> None:
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base must be of type nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r must be >= 1 (at least 1), got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        super().__init__()

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        empty = base.weight.data.new_empty
        self.register_parameter("lora_A", nn.Parameter(empty(r, base.in_features)))
        self.register_parameter("lora_B", nn.Parameter(empty(base.out_features, r)))
        self.reset_parameters()

        self.dropout = nn.Dropout(p=dropout)

        if freeze_base:
            self.base.requires_grad_(False)

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        dropped: Tensor = self.dropout(x)
        y: Tensor = self.base(x)
        return y + (dropped @ self.lora_A.T @ self.lora_B.T) * self.scaling

    def merge_(self) -> None:
        old = self.base.weight
        high = torch.promote_types(old.dtype, torch.float32)
        with torch.no_grad():
            update = (self.lora_B.to(high) @ self.lora_A.to(high)) * self.scaling
            merged = (old.to(high) + update).to(old.dtype)
        self.base.weight = nn.Parameter(merged, requires_grad=old.requires_grad)
        with torch.no_grad():
            self.lora_A.zero_()
            self.lora_B.zero_()


Visitor = Callable[[nn.Module, str, str, nn.Module], None]  # parent, key, dotted name, child


def _walk(parent: nn.Module, prefix: str, visit: Visitor) -> None:
    for key, child in list(parent._modules.items()):
        if child is None:
            continue
        name = f"{prefix}.{key}" if prefix else key
        visit(parent, key, name, child)
        if not isinstance(child, LoRALinear):
            _walk(child, name, visit)


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    hit: set[str] = set()
    places: list[tuple[nn.Module, str, str, nn.Linear]] = []
    busy = {id(m.base) for m in model.modules() if isinstance(m, LoRALinear)}

    def collect(parent: nn.Module, key: str, name: str, child: nn.Module) -> None:
        if not isinstance(child, nn.Linear) or id(child) in busy:
            return
        for target in target_modules:
            if name == target or name.endswith("." + target):
                hit.add(target)
                if not places or places[-1][2] != name:
                    places.append((parent, key, name, child))

    if not isinstance(model, LoRALinear):
        _walk(model, "", collect)

    for target in target_modules:
        if target not in hit:
            raise ValueError(f"target_modules: {target!r} matches no linear that can be wrapped")

    adapters: dict[int, LoRALinear] = {}
    for parent, key, _, linear in places:
        if id(linear) not in adapters:
            adapters[id(linear)] = LoRALinear(linear, r, alpha, dropout)
        setattr(parent, key, adapters[id(linear)])

    def freeze(module: nn.Module) -> None:
        skip = {id(module.lora_A), id(module.lora_B)} if isinstance(module, LoRALinear) else set()
        for p in module.parameters(recurse=False):
            if id(p) not in skip:
                p.requires_grad_(False)
        for child in module.children():
            freeze(child)

    freeze(model)
    return [name for _, _, name, _ in places]


def _named_factors(model: nn.Module) -> dict[str, nn.Parameter]:
    out: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            for which, p in module.named_parameters(prefix=name, recurse=False):
                out[which] = p
    return out


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, p in _named_factors(model).items():
        state[name] = p.clone().detach()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = _named_factors(model)
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own]
    if missing or extra:
        raise KeyError(f"state does not fit: missing {missing}, unexpected {extra}")

    with torch.no_grad():
        for name, p in own.items():
            value = state[name]
            if value.shape != p.shape:
                raise ValueError(f"{name}: shape {tuple(value.shape)}, need {tuple(p.shape)}")
            if not torch.isfinite(value.to(p.dtype)).all():
                raise ValueError(f"{name}: NaN or infinity in the file")
            p.copy_(value)
