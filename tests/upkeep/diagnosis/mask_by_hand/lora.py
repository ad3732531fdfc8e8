"""LoRA where even dropout is written out: draw a mask, zero, rescale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """base plus a low-rank detour."""

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
            raise TypeError(f"base: I need an nn.Linear, got {type(base).__name__}")
        if not r >= 1:
            raise ValueError(f"r: I need at least 1, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: I need a probability in [0, 1), got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r
        self.drop_p = dropout

        kind = base.weight.dtype
        place = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features, dtype=kind, device=place))
        self.lora_B = nn.Parameter(torch.empty(base.out_features, r, dtype=kind, device=place))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.constant_(self.lora_B, 0.0)

        if freeze_base:
            base.weight.requires_grad = False
        self.train(base.training)

    def _drop(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_p == 0.0:
            return x
        keep = 1.0 - self.drop_p
        mask = torch.rand(x.shape, device=x.device) < keep
        return torch.where(mask, x / keep, torch.zeros_like(x))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        detour = self._drop(x) @ self.lora_A.transpose(0, 1)
        detour = detour @ self.lora_B.transpose(0, 1)
        return out + detour * self.scaling

    def merge_(self) -> None:
        with torch.no_grad():
            w = self.base.weight
            big = torch.float64 if w.dtype is torch.float64 else torch.float32
            ba = torch.matmul(self.lora_B.to(big), self.lora_A.to(big))
            summed = w.to(big) + ba * self.scaling
            w.copy_(summed)
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    def fits(name: str, target: str) -> bool:
        want = target.split(".")
        return name.split(".")[-len(want) :] == want

    wrapped_already = [m.base for m in model.modules() if isinstance(m, LoRALinear)]
    candidates: dict[str, nn.Linear] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and not any(module is b for b in wrapped_already):
            candidates[name] = module

    unused = [t for t in target_modules if not any(fits(name, t) for name in candidates)]
    if unused:
        raise ValueError(f"target_modules: nothing left to wrap for {', '.join(unused)}")

    names = [name for name in candidates if any(fits(name, t) for t in target_modules)]
    twins: dict[int, LoRALinear] = {}
    for name in names:
        linear = candidates[name]
        if id(linear) not in twins:
            twins[id(linear)] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        *path, last = name.split(".")
        setattr(model.get_submodule(".".join(path)), last, twins[id(linear)])

    factors: list[Tensor] = []
    for m in model.modules():
        if isinstance(m, LoRALinear):
            factors.append(m.lora_A)
            factors.append(m.lora_B)
    for p in model.parameters():
        if not any(p is f for f in factors):
            p.requires_grad_(False)
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, m in model.named_modules():
        if not isinstance(m, LoRALinear):
            continue
        path = [name] if name else []
        state[".".join([*path, "lora_A"])] = m.lora_A.detach().clone()
        state[".".join([*path, "lora_B"])] = m.lora_B.detach().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    current = lora_state_dict(model)
    missing = sorted(k for k in current if k not in state)
    unknown = sorted(k for k in state if k not in current)
    if missing or unknown:
        raise KeyError(f"state: missing {missing}; unexpected {unknown}")
    for k, have in current.items():
        new = state[k]
        if new.shape != have.shape:
            raise ValueError(f"{k}: shape is {tuple(new.shape)}, should be {tuple(have.shape)}")
        if not new.to(have.dtype).isfinite().all():
            raise ValueError(f"{k}: there is NaN or infinity in it")
    with torch.no_grad():
        for k in current:
            model.get_parameter(k).copy_(state[k])
