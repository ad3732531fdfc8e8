"""The style of a cautious engineer: every step is checked before it is taken and again afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MINIGPT_LINEARS: tuple[str, ...] = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "mlp.fc1",
    "mlp.fc2",
)

FACTOR_NAMES: tuple[str, str] = ("lora_A", "lora_B")


class AdapterNamesError(KeyError, ValueError):
    """The names in a state do not fit the model. Callers may catch either kind."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the repr, with its line breaks escaped


class AdapterValuesError(ValueError):
    """The names fit, but some of the tensors cannot be loaded."""


def _check_base(base: object) -> None:
    if not isinstance(base, nn.Linear):
        raise TypeError(
            f"base: expected an instance of torch.nn.Linear, got {type(base).__name__}. "
            "Pass the layer itself, not its weight and not its name."
        )


def _check_rank(r: object) -> None:
    if isinstance(r, bool) or not isinstance(r, int):
        raise TypeError(f"r: expected an int, got {r!r} of type {type(r).__name__}.")
    if r < 1:
        raise ValueError(f"r: expected at least 1, got {r}. A rank of zero adapts nothing.")


def _check_alpha(alpha: float) -> None:
    if not math.isfinite(alpha):
        raise ValueError(f"alpha: expected a finite number, got {alpha}.")


def _check_dropout(dropout: float) -> None:
    if not 0.0 <= dropout < 1.0:  # written so that NaN is refused too
        raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}.")


class LoRALinear(nn.Module):
    """y = W x + b + (α/r) B A dropout(x).

    Invariants, true from the end of __init__ on:
        lora_A is (r, in_features), lora_B is (out_features, r);
        scaling is a Python float and equals alpha / r;
        both factors have base's dtype and sit on base's device.
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
        _check_base(base)
        _check_rank(r)
        _check_alpha(alpha)
        _check_dropout(dropout)

        super().__init__()

        self.base = base
        self.r = int(r)
        self.alpha = float(alpha)
        self.scaling = float(alpha) / int(r)
        self.dropout = nn.Dropout(p=float(dropout), inplace=False)

        in_features: int = base.in_features
        out_features: int = base.out_features
        dtype: torch.dtype = base.weight.dtype
        device: torch.device = base.weight.device

        self.lora_A = nn.Parameter(
            torch.empty((r, in_features), dtype=dtype, device=device),
            requires_grad=True,
        )
        self.lora_B = nn.Parameter(
            torch.empty((out_features, r), dtype=dtype, device=device),
            requires_grad=True,
        )
        with torch.no_grad():
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
            nn.init.zeros_(self.lora_B)

        if freeze_base:
            self.base.weight.requires_grad_(False)
            if self.base.bias is not None:
                self.base.bias.requires_grad_(False)
            if any(parameter.requires_grad for parameter in self.base.parameters()):
                raise RuntimeError("base: expected to be frozen by now, but something still trains.")

        self.train(mode=base.training)

        if self.lora_A.shape != (self.r, in_features):
            raise RuntimeError(f"lora_A: expected {(self.r, in_features)}, got {self.lora_A.shape}.")
        if self.lora_B.shape != (out_features, self.r):
            raise RuntimeError(f"lora_B: expected {(out_features, self.r)}, got {self.lora_B.shape}.")

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if x.shape[-1] != self.base.in_features:
            raise RuntimeError(
                f"x: expected a last axis of {self.base.in_features}, got {tuple(x.shape)}."
            )
        base_output: Tensor = self.base(x)
        dropped_input: Tensor = self.dropout(x)
        down: Tensor = F.linear(dropped_input, self.lora_A)  # (..., r)
        up: Tensor = F.linear(down, self.lora_B)  # (..., out_features)
        output: Tensor = base_output + self.scaling * up
        return output

    @torch.no_grad()
    def merge_(self) -> None:
        """Fold the update into base.weight; refuse to spoil the weight with NaN or infinity."""
        weight: Tensor = self.base.weight
        compute_dtype: torch.dtype = torch.promote_types(weight.dtype, torch.float32)

        factor_A: Tensor = self.lora_A.detach().to(compute_dtype)
        factor_B: Tensor = self.lora_B.detach().to(compute_dtype)
        update: Tensor = torch.matmul(factor_B, factor_A) * self.scaling
        if update.shape != weight.shape:
            raise RuntimeError(f"update: expected {weight.shape}, got {update.shape}.")

        merged: Tensor = (weight.detach().to(compute_dtype) + update).to(weight.dtype)
        if not bool(torch.isfinite(merged).all()):
            raise ValueError("merge_: expected finite merged weights, got NaN or infinity.")

        weight.copy_(merged)
        self.lora_A.zero_()
        self.lora_B.zero_()


def _is_match(name: str, target: str) -> bool:
    if target == "":
        return False
    return name == target or name.endswith("." + target)


def _is_factor_name(name: str) -> bool:
    return name.rpartition(".")[2] in FACTOR_NAMES


def _free_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Every linear that is not inside an adapter, under each of its names."""
    inside: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoRALinear):
            for descendant in module.modules():
                inside.add(id(descendant))
    free: dict[str, nn.Linear] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and id(module) not in inside:
            free[name] = module
    return free


def _adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """A and B of every adapter, each under its first full name."""
    found: dict[str, nn.Parameter] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, LoRALinear):
            for factor_name in FACTOR_NAMES:
                full_name = f"{prefix}.{factor_name}" if prefix else factor_name
                found[full_name] = module.get_parameter(factor_name)
    return found


def wrap_minigpt_with_lora(
    model: nn.Module,
    r: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] = MINIGPT_LINEARS,
    dropout: float = 0.05,
) -> list[str]:
    """Wrap, then verify. Nothing is changed unless every check before the first change passes."""
    # 1. Arguments.
    _check_rank(r)
    _check_alpha(alpha)
    _check_dropout(dropout)
    if isinstance(target_modules, str):
        raise ValueError(f"target_modules: expected a sequence of names, got {target_modules!r}.")

    # 2. Look, without touching.
    free = _free_linears(model)
    matched: dict[str, nn.Linear] = {}
    unmatched: list[str] = []
    for target in target_modules:
        hits = {name: linear for name, linear in free.items() if _is_match(name, target)}
        if not hits:
            unmatched.append(target)
        matched.update(hits)
    if unmatched:
        raise ValueError(
            f"target_modules: expected every target to match a linear that has no adapter yet, "
            f"got no match for {', '.join(map(repr, unmatched))}."
        )

    # 3. Build all adapters before the first one is put in place.
    names: list[str] = [name for name in free if name in matched]
    adapters: dict[int, LoRALinear] = {}
    for name in names:
        linear = free[name]
        if id(linear) not in adapters:
            adapters[id(linear)] = LoRALinear(linear, r=r, alpha=alpha, dropout=dropout)

    # 4. Replace.
    for name in names:
        parent_name, _, child_name = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child_name, adapters[id(free[name])])

    # 5. Freeze the rest.
    adapter_ids = {id(parameter) for parameter in _adapter_parameters(model).values()}
    for parameter in model.parameters():
        if id(parameter) not in adapter_ids:
            parameter.requires_grad_(False)

    # 6. Verify what was promised.
    for name in names:
        if not isinstance(model.get_submodule(name), LoRALinear):
            raise RuntimeError(f"{name}: expected a LoRALinear after wrapping.")
    leaking = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in adapter_ids
    ]
    if leaking:
        raise RuntimeError(f"expected only adapters to train, but these do too: {leaking}.")
    return names


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Copies that share no memory with the model and carry no graph."""
    state: dict[str, Tensor] = {}
    for name, parameter in _adapter_parameters(model).items():
        copy = parameter.detach().clone(memory_format=torch.contiguous_format)
        if copy.data_ptr() == parameter.data_ptr() and copy.numel() > 0:
            raise RuntimeError(f"{name}: expected a copy, got the same memory.")
        state[name] = copy
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """All checks come first; the writes at the end cannot fail half-way."""
    parameters = _adapter_parameters(model)

    missing = [name for name in parameters if name not in state]
    unexpected = [name for name in state if name not in parameters]
    if missing or unexpected:
        lines = ["state: the names do not fit this model."]
        lines += [f"  {name}: missing" for name in missing]
        lines += [f"  {name}: unexpected" for name in unexpected]
        lines.append("Was the model wrapped with the same target_modules?")
        raise AdapterNamesError("\n".join(lines))

    faults: list[str] = []
    for name, parameter in parameters.items():
        value = state[name]
        if not isinstance(value, Tensor):
            faults.append(f"  {name}: expected a Tensor, got {type(value).__name__}")
        elif value.shape != parameter.shape:
            want, got = tuple(parameter.shape), tuple(value.shape)
            faults.append(f"  {name}: expected shape {want}, got {got}; was r changed?")
        elif not bool(torch.isfinite(value.to(parameter.dtype)).all()):
            faults.append(f"  {name}: expected finite values in {parameter.dtype}, got NaN or inf")
    if faults:
        raise AdapterValuesError("\n".join(["state: some entries cannot be loaded.", *faults]))

    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name].to(device=parameter.device, dtype=parameter.dtype))
