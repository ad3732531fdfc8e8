"""The style of someone who never writes a line twice: tables of names, shapes and checks, and loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FACTORS: Final = ("lora_A", "lora_B")


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
        for error, name, fine, expected, got in (
            (TypeError, "base", isinstance(base, nn.Linear), "nn.Linear", type(base).__name__),
            (ValueError, "r", r >= 1, "at least 1", r),
            (ValueError, "dropout", 0 <= dropout < 1, "in [0, 1)", dropout),
        ):
            if not fine:
                raise error(f"{name}: expected {expected}, got {got}")
        self.base, self.r, self.alpha, self.scaling = base, r, alpha, alpha / r
        self.dropout = nn.Dropout(dropout)
        shapes = ((r, base.in_features), (base.out_features, r))
        for name, shape in zip(FACTORS, shapes):
            setattr(self, name, nn.Parameter(base.weight.new_zeros(shape)))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        for parameter in base.parameters() if freeze_base else ():
            parameter.requires_grad_(False)
        for module in (self, self.dropout):
            module.training = base.training

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        branch: Tensor = self.dropout(x)
        for factor in self.factors():
            branch = F.linear(branch, factor)
        return out + branch * self.scaling

    def factors(self) -> tuple[nn.Parameter, nn.Parameter]:
        return self.lora_A, self.lora_B

    @torch.no_grad()
    def merge_(self) -> None:
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        A, B = (factor.to(wide) for factor in self.factors())
        weight.copy_(weight.to(wide) + (B @ A) * self.scaling)
        for factor in self.factors():
            factor.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = TARGETS,
    dropout: float = 0.05,
) -> list[str]:
    bases = [layer.base for layer in model.modules() if isinstance(layer, LoRALinear)]
    found: dict[str, list[str]] = {target: [] for target in target_modules}
    for name, module in model.named_modules(remove_duplicate=False):
        for target in target_modules:
            if f".{name}".endswith(f".{target}") and isinstance(module, nn.Linear):
                if all(module is not base for base in bases):
                    found[target].append(name)
    unmatched = [target for target, names in found.items() if not names]
    if unmatched:
        raise ValueError(f"target_modules: expected a match for each target, got none for {unmatched}")
    names = list(dict.fromkeys(name for group in found.values() for name in group))
    made: dict[nn.Linear, LoRALinear] = {}
    for name in names:
        *path, child = name.split(".")
        parent = model.get_submodule(".".join(path))
        linear = getattr(parent, child)
        if isinstance(linear, nn.Linear):  # else a shared parent already holds the adapter
            made[linear] = made.get(linear) or LoRALinear(linear, r, alpha, dropout)
            setattr(parent, child, made[linear])
    for name, parameter in model.named_parameters():
        if name.split(".")[-1] not in FACTORS:
            parameter.requires_grad_(False)
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for prefix, layer in model.named_modules():
        if isinstance(layer, LoRALinear):
            for name, factor in zip(FACTORS, layer.factors()):
                state[".".join([prefix, name]) if prefix else name] = factor.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    Check = Callable[[str], bool]
    checks: tuple[tuple[type[Exception], str, Check], ...] = (
        (KeyError, "missing", lambda name: name in state),
        (KeyError, "unexpected", lambda name: name in own),
        (ValueError, "of another shape", lambda name: own[name].shape == state[name].shape),
        (ValueError, "not finite", lambda name: bool(state[name].isfinite().all())),
    )
    for error, complaint, fine in checks:
        wrong = [name for name in dict.fromkeys((*own, *state)) if not fine(name)]
        if wrong:
            raise error(f"entries {complaint}: {', '.join(wrong)}")
    with torch.no_grad():
        for prefix, layer in model.named_modules():
            if isinstance(layer, LoRALinear):
                for name, factor in zip(FACTORS, layer.factors()):
                    factor.copy_(state[f"{prefix}.{name}" if prefix else name])
