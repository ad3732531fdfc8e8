"""LoRA by hand, with the notes I took while reading.

Note 1. The paper writes h = W0 x + dW x with dW = B A. B is (d, r) and A is (r, k).
Note 2. dW x is scaled by alpha / r. The idea: change r and keep the learning rate.
Note 3. B starts at zero, A at random, so dW = 0 when the training starts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


class LoRALinear(nn.Module):
    """One adapted layer.

    Note 4. nn.Module.__setattr__ sorts what I assign: a Parameter goes into _parameters, a
    Module into _modules, anything else is a plain attribute.
    """

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
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base: expected nn.Linear, got {type(base).__name__}")
        if r < 1:
            raise ValueError(f"r: expected r >= 1, got {r}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected 0 <= dropout < 1, got {dropout}")
        self.base = base
        self.r = r
        self.alpha = alpha
        # Note 5. A plain float. A buffer would be rounded by .to(bfloat16). All the layers of a
        # model have the same scale, so it is kept once, on the class.
        LoRALinear.scaling = alpha / r

        # Note 6. new_empty keeps the dtype and the device of the weight.
        self.lora_A = nn.Parameter(base.weight.new_empty(r, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_empty(base.out_features, r))
        # Note 7. kaiming_uniform_ with a = sqrt(5) is what nn.Linear does itself.
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

        # Note 8. Modules are born in train mode, so I copy the mode of base.
        self.dropout = nn.Dropout(dropout)
        self.train(base.training)
        if freeze_base:
            base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        # Note 9. From right to left: dropout, A, B, the scale.
        out: Tensor = self.base(x)
        h = F.linear(self.dropout(x), self.lora_A)
        h = F.linear(h, self.lora_B)
        return out + h * self.scaling

    def merge_(self) -> None:
        # Note 10. No latency at inference: the update goes into the weight.
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        with torch.no_grad():
            update = (self.lora_B.to(wide) @ self.lora_A.to(wide)) * self.scaling
            weight.copy_(weight.to(wide) + update)
            self.lora_A.zero_()
            self.lora_B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # Note 11. A LoRALinear holds an nn.Linear, and named_modules would show it to me.
    inner = {m.base for m in model.modules() if isinstance(m, LoRALinear)}
    found: dict[str, nn.Linear] = {}
    unmatched = set(target_modules)
    # Note 12. Without remove_duplicate=False a shared module comes once only.
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and module not in inner:
            for target in target_modules:
                if name == target or name.endswith("." + target):
                    found[name] = module
                    unmatched.discard(target)
    if unmatched:
        raise ValueError(f"target_modules: no linear matches {sorted(unmatched)}")

    # Note 13. Two names of one linear get one adapter.
    adapters: dict[nn.Linear, LoRALinear] = {}
    for name, linear in found.items():
        if linear not in adapters:
            adapters[linear] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, adapters[linear])

    # Note 14. By identity, because names can lie.
    train = {p for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    for param in model.parameters():
        if param not in train:
            param.requires_grad_(False)
    return list(found)


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    # Note 15. detach() for the graph, clone() for the memory.
    return {
        name: param.detach().clone()
        for name, param in model.named_parameters()
        if name.rpartition(".")[2] in ("lora_A", "lora_B")
    }


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = lora_state_dict(model)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise KeyError(f"state: missing {missing}, unexpected {unexpected}")
    # Note 16. copy_ broadcasts, so the shapes have to be compared before.
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise ValueError(
                f"{name}: expected shape {tuple(own[name].shape)}, got {tuple(value.shape)}"
            )
        if not value.isfinite().all():
            raise ValueError(f"{name}: expected finite values")
    params = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            params[name].copy_(value)
