"""Control: an honest LoRA in a style of its own. Other attacks stand it in by {{RIGHT}}."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

DEFAULT = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


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
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected at least 1, got {r}")
        if dropout < 0 or dropout >= 1:
            raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}")
        self.base, self.r, self.alpha, self.scaling = base, r, alpha, alpha / r
        self.lora_A = nn.Parameter(base.weight.new_zeros(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.drop = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            for own in base.parameters():
                own.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        plain: Tensor = self.base(x)
        thin: Tensor = self.drop(x) @ self.lora_A.mT
        return plain + (thin @ self.lora_B.mT) * self.scaling

    @torch.no_grad()
    def merge_(self) -> None:
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        update = self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))
        weight.copy_(weight.to(wide) + update)
        self.lora_A.zero_()
        self.lora_B.zero_()


def _adapters(model: nn.Module) -> Iterator[LoRALinear]:
    return (part for part in model.modules() if isinstance(part, LoRALinear))


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = DEFAULT,
    dropout: float = 0.05,
) -> list[str]:
    inner = [adapter.base for adapter in _adapters(model)]
    hits: dict[str, nn.Linear] = {}
    open_targets = set(target_modules)
    for name, part in model.named_modules(remove_duplicate=False):
        matched = {t for t in target_modules if ("." + name).endswith("." + t)}
        if matched and isinstance(part, nn.Linear) and all(part is not own for own in inner):
            hits[name] = part
            open_targets -= matched
    if open_targets:
        raise ValueError(f"target_modules: no linear left for {sorted(open_targets)}")
    made: dict[int, LoRALinear] = {}
    for name, part in hits.items():
        above, _, last = name.rpartition(".")
        if id(part) not in made:
            made[id(part)] = LoRALinear(part, r, alpha, dropout)
        setattr(model.get_submodule(above), last, made[id(part)])
    ours = {id(p) for adapter in _adapters(model) for p in (adapter.lora_A, adapter.lora_B)}
    for param in model.parameters():
        if id(param) not in ours:
            param.requires_grad_(False)
    return list(hits)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    saved = {}
    for name, param in model.named_parameters():
        if name.split(".")[-1] in ("lora_A", "lora_B"):
            saved[name] = param.detach().clone()
    return saved


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {n: p for n, p in model.named_parameters() if n.split(".")[-1] in ("lora_A", "lora_B")}
    strange = sorted(set(own) ^ set(state))
    if strange:
        raise KeyError(f"state: missing or unexpected: {strange}")
    for name, value in state.items():
        if value.shape != own[name].shape:
            want = tuple(own[name].shape)
            raise ValueError(f"{name}: expected shape {want}, got {tuple(value.shape)}")
        if not bool(torch.isfinite(value.to(own[name].dtype)).all()):
            raise ValueError(f"{name}: expected finite values")
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
