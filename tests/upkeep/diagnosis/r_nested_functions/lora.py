"""LoRA; small functions live inside the function that needs them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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

        def need(ok: bool, error: type[Exception], text: str) -> None:
            if not ok:
                raise error(text)

        def matrix(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(base.weight.new_zeros(rows, columns))

        need(isinstance(base, nn.Linear), TypeError, f"base: no nn.Linear: {type(base).__name__}")
        need(r >= 1, ValueError, f"r: at least 1, got {r}")
        need(0 <= dropout < 1, ValueError, f"dropout: in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.lora_A = matrix(r, base.in_features)
        self.lora_B = matrix(base.out_features, r)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        def branch(inp: Tensor) -> Tensor:
            return F.linear(F.linear(inp, self.lora_A), self.lora_B)

        y: Tensor = self.base(x)
        return y + self.scaling * branch(self.dropout(x))

    def merge_(self) -> None:
        weight = self.base.weight

        def up(t: Tensor) -> Tensor:
            return t.to(torch.promote_types(weight.dtype, torch.float32))

        with torch.no_grad():
            weight.copy_(up(weight) + self.scaling * (up(self.lora_B) @ up(self.lora_A)))
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    inside = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    made: dict[nn.Linear, LoRALinear] = {}

    def match(name: str, target: str) -> bool:
        return name == target or name.endswith("." + target)

    def free() -> dict[str, nn.Linear]:
        return {
            name: module
            for name, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, nn.Linear) and module not in inside
        }

    def adapter_for(linear: nn.Linear) -> LoRALinear:
        if linear not in made:
            made[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        return made[linear]

    def put(name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)

    candidates = free()
    for target in target_modules:
        if not any(match(name, target) for name in candidates):
            raise ValueError(f"target_modules: {target!r} matches no linear to wrap")
    names = [n for n in candidates if any(match(n, t) for t in target_modules)]
    for name in names:
        put(name, adapter_for(candidates[name]))

    def is_adapter_param(param: nn.Parameter) -> bool:
        return any(param is p for p in adapter_params)

    adapter_params = [
        p for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)
    ]
    for param in model.parameters():
        if not is_adapter_param(param):
            param.requires_grad_(False)
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    def copy_of(param: nn.Parameter) -> Tensor:
        return param.detach().clone()

    def wanted(name: str) -> bool:
        return name.split(".")[-1] in ("lora_A", "lora_B")

    return {name: copy_of(p) for name, p in model.named_parameters() if wanted(name)}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)

    def check_names() -> None:
        missing = [name for name in own if name not in state]
        if missing:
            raise KeyError(f"state: missing {missing}")

    def check_value(name: str) -> None:
        got, want = tuple(state[name].shape), tuple(own[name].shape)
        if got != want:
            raise ValueError(f"{name}: shape {got}, expected {want}")
        if not state[name].isfinite().all():
            raise ValueError(f"{name}: NaN or infinity")

    def write() -> None:
        params = dict(model.named_parameters())
        with torch.no_grad():
            for name in own:
                params[name].copy_(state[name])

    check_names()
    for name in own:
        check_value(name)
    write()
