"""LoRA, with errors that list everything that is wrong at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


@dataclass
class Report:
    """Collects sentences; stop() raises them together, if there are any."""

    error: type[Exception]
    lines: list[str] = field(default_factory=list)

    def expect(self, holds: bool, line: str) -> None:
        if not holds:
            self.lines.append(line)

    def stop(self) -> None:
        if self.lines:
            raise self.error("\n".join(self.lines))


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

        types = Report(TypeError)
        types.expect(
            isinstance(base, nn.Linear), f"base: expected nn.Linear, got {type(base).__name__}"
        )
        types.stop()

        values = Report(ValueError)
        values.expect(r >= 1, f"r: expected at least 1, got {r}")
        values.expect(0 <= dropout < 1, f"dropout: expected a value in [0, 1), got {dropout}")
        values.stop()

        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        self.lora_A = self._factor(r, base.in_features)
        self.lora_B = self._factor(base.out_features, r)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

        self.dropout = nn.Dropout(dropout)
        self.train(base.training)

        if freeze_base:
            base.requires_grad_(False)

    def _factor(self, rows: int, columns: int) -> nn.Parameter:
        weight = self.base.weight
        return nn.Parameter(torch.empty(rows, columns, dtype=weight.dtype, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        z = F.linear(self.scaling * self.dropout(x), self.lora_A)
        return y + F.linear(z, self.lora_B)

    def merge_(self) -> None:
        with torch.no_grad():
            weight = self.base.weight
            dtype = torch.promote_types(weight.dtype, torch.float32)
            update = (self.lora_B.to(dtype) @ self.lora_A.to(dtype)).mul(self.scaling)
            weight.copy_(weight.to(dtype).add(update))
            self.lora_A.zero_()
            self.lora_B.zero_()


def adapters(model: nn.Module) -> list[tuple[str, LoRALinear]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, LoRALinear)]


def factors(model: nn.Module) -> dict[str, nn.Parameter]:
    pairs: dict[str, nn.Parameter] = {}
    for name, adapter in adapters(model):
        for leaf, param in (("lora_A", adapter.lora_A), ("lora_B", adapter.lora_B)):
            pairs[f"{name}.{leaf}" if name else leaf] = param
    return pairs


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    claimed = {id(adapter.base) for _, adapter in adapters(model)}
    candidates: dict[str, nn.Linear] = {
        name: m
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and id(m) not in claimed
    }

    report = Report(ValueError)
    selected: dict[str, nn.Linear] = {}
    for target in target_modules:
        names = [n for n in candidates if n == target or n.endswith("." + target)]
        report.expect(bool(names), f"target_modules: expected a linear to wrap for {target!r}")
        selected.update((n, candidates[n]) for n in names)
    report.stop()

    built: dict[int, LoRALinear] = {}
    for name, linear in selected.items():
        if id(linear) not in built:
            built[id(linear)] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, built[id(linear)])

    trainable = {id(param) for param in factors(model).values()}
    for param in model.parameters():
        if id(param) not in trainable:
            param.requires_grad_(False)
    return list(selected)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in factors(model).items()}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = factors(model)

    names = Report(KeyError)
    for name in own:
        names.expect(name in state, f"{name}: missing in the state")
    for name in state:
        names.expect(name in own, f"{name}: unexpected, the model has no such entry")
    names.stop()

    entries = Report(ValueError)
    for name, param in own.items():
        value = state[name]
        entries.expect(
            value.shape == param.shape,
            f"{name}: expected shape {tuple(param.shape)}, got {tuple(value.shape)}",
        )
        entries.expect(
            value.dtype == param.dtype,
            f"{name}: expected dtype {param.dtype}, got {value.dtype}",
        )
        entries.expect(
            bool(torch.isfinite(value).all()),
            f"{name}: expected finite values, got NaN or infinity",
        )
    entries.stop()

    with torch.no_grad():
        for name, param in own.items():
            param.copy_(state[name])
