# My LoRA for lab 00.
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn as nn
from torch import Tensor

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
        # --- A1: arguments ---
        if isinstance(base, nn.Linear) == False:  # noqa: E712
            raise TypeError("base must be nn.Linear but got " + type(base).__name__)
        if r < 1:
            raise ValueError("r must be at least 1 but got " + str(r))
        if dropout < 0:
            raise ValueError("dropout must be in [0, 1) but got " + str(dropout))
        if dropout >= 1:
            raise ValueError("dropout must be in [0, 1) but got " + str(dropout))
        self.base = base
        self.r = r
        self.alpha = alpha
        self.scaling = alpha / r

        # --- A2 and A3: the matrices ---
        in_features = base.in_features
        out_features = base.out_features
        dtype = base.weight.dtype
        device = base.weight.device
        # bound of kaiming_uniform_ with a = sqrt(5) is 1 / sqrt(fan_in)
        bound = 1 / math.sqrt(in_features)
        A = torch.rand(r, in_features, dtype=dtype, device=device) * bound
        B = torch.zeros(out_features, r, dtype=dtype, device=device)
        self.lora_A = nn.Parameter(A)
        self.lora_B = nn.Parameter(B)

        # --- A4: dropout ---
        self.dropout = nn.Dropout(dropout)
        if base.training:
            self.train()
        else:
            self.eval()

        # --- A6: freeze ---
        if freeze_base == True:  # noqa: E712
            for p in base.parameters():
                p.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        # 1. the normal path
        y = self.base(x)
        # 2. the LoRA path
        x_dropped = self.dropout(x)
        Ax = torch.matmul(x_dropped, self.lora_A.T)
        BAx = torch.matmul(Ax, self.lora_B.T)
        # 3. put them together
        y = y + self.scaling * BAx
        return y

    def merge_(self) -> None:
        # no_grad because base.weight must stay a leaf
        with torch.no_grad():
            W = self.base.weight
            A = self.lora_A
            B = self.lora_B
            # use float32 for the sum unless the layer is float64
            if W.dtype != torch.float64:
                BA = torch.matmul(B.float(), A.float())
                new_W = W.float() + self.scaling * BA
            else:
                BA = torch.matmul(B, A)
                new_W = W + self.scaling * BA
            W.copy_(new_W)
            A.zero_()
            B.zero_()


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    # Step 1: remember the linears that are already inside of a LoRALinear
    already = []
    for module in model.modules():
        if isinstance(module, LoRALinear):
            already.append(id(module.base))

    # Step 2: find the linears
    found = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear):
            if id(module) not in already:
                for target in target_modules:
                    if name == target or name.endswith("." + target):
                        found[name] = module

    # Step 3: check that every target was found
    for target in target_modules:
        ok = False
        for name in found:
            if name == target or name.endswith("." + target):
                ok = True
        if not ok:
            print("Warning: target", target, "did not match any nn.Linear of the model")

    # Step 4: replace them
    adapters = {}
    for name in found:
        module = found[name]
        if id(module) not in adapters:
            adapters[id(module)] = LoRALinear(module, r=r, alpha=alpha, dropout=dropout)
        parts = name.split(".")
        parent = model
        for part in parts[:-1]:
            parent = getattr(parent, part)
        setattr(parent, parts[-1], adapters[id(module)])

    # Step 5: freeze everything which is not A or B
    lora_ids = []
    for module in model.modules():
        if isinstance(module, LoRALinear):
            lora_ids.append(id(module.lora_A))
            lora_ids.append(id(module.lora_B))
    for p in model.parameters():
        if id(p) not in lora_ids:
            p.requires_grad = False

    return list(found.keys())


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    result = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            if name == "":
                start = ""
            else:
                start = name + "."
            result[start + "lora_A"] = module.lora_A.detach().clone()
            result[start + "lora_B"] = module.lora_B.detach().clone()
    return result


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    # what the model has
    expected = lora_state_dict(model)

    # check the names
    missing = []
    unexpected = []
    for name in expected:
        if name not in state:
            missing.append(name)
    for name in state:
        if name not in expected:
            unexpected.append(name)
    if missing or unexpected:
        raise KeyError("missing: " + str(missing) + ", unexpected: " + str(unexpected))

    # check the shapes and the values
    for name in expected:
        shape = expected[name].shape
        if state[name].shape != shape:
            raise ValueError(
                name + " must be " + str(tuple(shape)) + " but is " + str(tuple(state[name].shape))
            )
        value = state[name].to(expected[name].dtype)
        if torch.isnan(value).any() or torch.isinf(value).any():
            raise ValueError(name + " contains NaN or infinity")

    # everything is fine, write
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, LoRALinear):
                if name == "":
                    start = ""
                else:
                    start = name + "."
                module.lora_A.copy_(state[start + "lora_A"])
                module.lora_B.copy_(state[start + "lora_B"])
