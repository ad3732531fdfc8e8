"""The style of somebody who has been paged at night: every argument is checked, by kind as well."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import nn

from minituner.minigpt import MiniGPTConfig
from minituner.published import UNITS, Claim, Matrix
from minituner.tally import LinearShape, Memory, ParamCount, Verdict

MINIGPT_LINEARS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FLOAT32: Final = 4
HALF: Final = 2
STATES: Final[Mapping[str, int]] = {"adam": 2, "sgd": 0}


def _whole(name: str, value: object, least: int) -> int:
    """An honest whole number that is large enough."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
    return value


def _one_of(name: str, value: object, known: Iterable[object]) -> None:
    choices = list(known)
    if value not in choices:
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}")


def lora_param_count(in_features: int, out_features: int, r: int) -> int:
    d_in = _whole("in_features", in_features, 1)
    d_out = _whole("out_features", out_features, 1)
    rank = _whole("r", r, 1)
    return rank * d_in + rank * d_out


def linear_inventory(model: nn.Module) -> list[LinearShape]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    found: list[LinearShape] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            shape = LinearShape(
                name=name,
                in_features=int(module.in_features),
                out_features=int(module.out_features),
                bias=module.bias is not None,
            )
            found.append(shape)
    return found


def count_params(model: nn.Module) -> ParamCount:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, got {type(model).__name__}")
    seen: set[int] = set()
    trainable = frozen = 0
    for _, param in model.named_parameters(remove_duplicate=False):
        if id(param) in seen:
            continue
        seen.add(id(param))
        if param.requires_grad:
            trainable += param.numel()
        else:
            frozen += param.numel()
    return ParamCount(trainable=trainable, frozen=frozen)


def wrapped_count(
    model: nn.Module, r: int = 8, target_modules: Sequence[str] = MINIGPT_LINEARS
) -> ParamCount:
    _whole("r", r, 1)
    if isinstance(target_modules, str):
        raise TypeError("target_modules: expected a sequence of names, got one str")
    linears: dict[str, nn.Linear] = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear)
    }
    chosen: set[nn.Linear] = set()
    without: list[str] = []
    for target in dict.fromkeys(target_modules):
        mine = {m for name, m in linears.items() if name == target or name.endswith(f".{target}")}
        chosen |= mine
        if not mine:
            without.append(target)
    if without:
        raise ValueError(
            f"target_modules: {without} match no nn.Linear; there are {sorted(linears)[:8]}"
        )
    trainable = sum(lora_param_count(m.in_features, m.out_features, r) for m in chosen)
    now = count_params(model)
    return ParamCount(trainable=trainable, frozen=now.trainable + now.frozen)


def compression_ratio(in_features: int, out_features: int, r: int) -> float:
    adapter = lora_param_count(in_features, out_features, r)
    return float(in_features * out_features) / float(adapter)


def break_even_rank(in_features: int, out_features: int) -> int:
    d_in = _whole("in_features", in_features, 1)
    d_out = _whole("out_features", out_features, 1)
    rank = max(1, (d_in * d_out) // (d_in + d_out) - 1)
    while rank * (d_in + d_out) < d_in * d_out:
        rank += 1
    return rank


def full_finetune_memory(
    params: int, *, optimizer: str = "adam", mixed: bool = False, activations: int = 0
) -> Memory:
    count = _whole("params", params, 0)
    kept = _whole("activations", activations, 0)
    _one_of("optimizer", optimizer, STATES)
    if not isinstance(mixed, bool):
        raise TypeError(f"mixed: expected a bool, got {mixed!r}")
    states = FLOAT32 * STATES[optimizer] * count
    if mixed:
        return Memory(HALF * count, HALF * count, states + FLOAT32 * count, kept)
    return Memory(FLOAT32 * count, FLOAT32 * count, states, kept)


def lora_memory(
    frozen: int,
    trainable: int,
    *,
    optimizer: str = "adam",
    weight_bytes: int = FLOAT32,
    activations: int = 0,
) -> Memory:
    base = _whole("frozen", frozen, 0)
    adapters = _whole("trainable", trainable, 0)
    _one_of("optimizer", optimizer, STATES)
    _one_of("weight_bytes", weight_bytes, (FLOAT32, HALF))
    return Memory(
        weights=weight_bytes * base + FLOAT32 * adapters,
        gradients=FLOAT32 * adapters,
        optimizer=FLOAT32 * STATES[optimizer] * adapters,
        activations=_whole("activations", activations, 0),
    )


def nf4_bytes(
    params: int, block_size: int = 64, double_quant: bool = True, double_block_size: int = 256
) -> int:
    count = _whole("params", params, 0)
    block = _whole("block_size", block_size, 1)
    group = _whole("double_block_size", double_block_size, 1)
    codes = count // 2 + count % 2
    blocks = count // block + (1 if count % block else 0)
    if double_quant:
        return codes + blocks + FLOAT32 * (blocks // group + (1 if blocks % group else 0))
    return codes + FLOAT32 * blocks


def qlora_memory(
    quantised: int, others: int, trainable: int, *, optimizer: str = "adam", activations: int = 0
) -> Memory:
    for name, value in (("quantised", quantised), ("others", others), ("trainable", trainable)):
        _whole(name, value, 0)
    four = Memory(weights=nf4_bytes(quantised))
    rest = lora_memory(
        others, trainable, optimizer=optimizer, weight_bytes=HALF, activations=activations
    )
    return four + rest


def linear_activations(
    in_features: int, tokens: int, *, mode: str = "full", r: int = 8, element_size: int = FLOAT32
) -> int:
    _one_of("mode", mode, ("full", "frozen", "lora"))
    d_in, rows = _whole("in_features", in_features, 1), _whole("tokens", tokens, 0)
    rank, size = _whole("r", r, 1), _whole("element_size", element_size, 1)
    if mode == "frozen":
        return 0
    x = d_in * rows * size
    return x + rank * rows * size if mode == "lora" else x


@dataclass(frozen=True)
class _PerToken:
    """Numbers that one token leaves behind, by where."""

    norm: int
    attention: int
    mlp: int
    adapters: int

    @property
    def block(self) -> int:
        return 2 * self.norm + self.attention + self.mlp + self.adapters


def minigpt_activations(
    config: MiniGPTConfig, batch: int, seq: int, *, r: int | None = None
) -> int:
    rows = _whole("batch", batch, 1) * _whole("seq", seq, 1)
    rank = 0 if r is None else _whole("r", r, 1)
    d = config.d_model
    one = _PerToken(
        norm=d + 2, attention=5 * d + config.n_head, mlp=d + 2 * config.d_ff, adapters=6 * rank
    )
    numbers = config.n_layer * one.block + one.norm
    if r is None:
        return FLOAT32 * rows * (numbers + d) + 8 * (rows + seq)
    return FLOAT32 * rows * (numbers - one.norm)


def _adapter(matrices: Sequence[Matrix], r: int) -> int:
    return sum(m.copies * lora_param_count(m.in_features, m.out_features, r) for m in matrices)


def _plain(claim: Claim) -> float:
    quantity, params = claim.quantity, claim.params
    if quantity in ("adapter", "share", "fewer", "file"):
        adapter = _adapter(claim.matrices, claim.r)
        if quantity == "adapter":
            return float(adapter)
        if quantity == "file":
            return float(adapter * claim.bytes_each)
        return adapter / params if quantity == "share" else params / adapter
    if quantity == "entries":
        return math.fsum(m.copies * m.in_features * m.out_features for m in claim.matrices)
    if quantity == "stored":
        return float(params * claim.bytes_each)
    if quantity == "training":
        return float(full_finetune_memory(params, mixed=True).total)
    if quantity == "constants":
        return 8.0 * (nf4_bytes(params) - (params + 1) // 2) / params
    if quantity == "double quantisation":
        return float(nf4_bytes(params, double_quant=False) - nf4_bytes(params))
    if quantity == "quotient":
        above, below = claim.parts
        return above / below
    raise ValueError(f"quantity: expected one that published.QUANTITIES lists, got {quantity!r}")


def truth(claim: Claim) -> float:
    if not isinstance(claim, Claim):
        raise TypeError(f"claim: expected a Claim, got {type(claim).__name__}")
    _one_of("unit", claim.unit, UNITS)
    return _plain(claim) / UNITS[claim.unit]


def audit(claims: Iterable[Claim]) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for claim in claims:
        _one_of("relation", claim.relation, ("=", "<", ">"))
        should = truth(claim)
        if claim.relation == "=":
            holds = abs(claim.published - should) <= claim.step / 2
        elif claim.relation == "<":
            holds = should < claim.published
        else:
            holds = should > claim.published
        verdicts.append(Verdict(claim=claim, truth=should, holds=holds))
    return verdicts
