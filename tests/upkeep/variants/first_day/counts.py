"""The style of a first week of Python: loops, if chains, names for everything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import nn

from minituner.minigpt import MiniGPTConfig
from minituner.published import UNITS, Claim
from minituner.tally import LinearShape, Memory, ParamCount, Verdict

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FLOAT32 = 4


def lora_param_count(in_features: int, out_features: int, r: int) -> int:
    if in_features < 1:
        raise ValueError("in_features must be 1 or more but it is " + str(in_features))
    if out_features < 1:
        raise ValueError("out_features must be 1 or more but it is " + str(out_features))
    if r < 1:
        raise ValueError("r must be 1 or more but it is " + str(r))
    size_of_a = r * in_features
    size_of_b = out_features * r
    return size_of_a + size_of_b


def linear_inventory(model: nn.Module) -> list[LinearShape]:
    result = []
    seen: list[nn.Linear] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear):
            continue
        already = False
        for other in seen:
            if other is module:
                already = True
        if already:
            continue
        seen.append(module)
        has_bias = True
        if module.bias is None:
            has_bias = False
        result.append(LinearShape(name, module.in_features, module.out_features, has_bias))
    return result


def count_params(model: nn.Module) -> ParamCount:
    trainable = 0
    frozen = 0
    for p in model.parameters():
        size = 1
        for side in p.shape:
            size = size * side
        if p.requires_grad:
            trainable = trainable + size
        else:
            frozen = frozen + size
    return ParamCount(trainable=trainable, frozen=frozen)


def wrapped_count(
    model: nn.Module, r: int = 8, target_modules: Sequence[str] = MINIGPT_LINEARS
) -> ParamCount:
    if r < 1:
        raise ValueError("r must be 1 or more but it is " + str(r))
    chosen: list[nn.Linear] = []
    missing = []
    for target in target_modules:
        found = False
        for name, module in model.named_modules(remove_duplicate=False):
            matches = name == target or name.endswith("." + target)
            if matches and isinstance(module, nn.Linear):
                found = True
                is_new = True
                for other in chosen:
                    if other is module:
                        is_new = False
                if is_new:
                    chosen.append(module)
        if not found:
            missing.append(target)
    if len(missing) > 0:
        raise ValueError("these target_modules match no linear: " + ", ".join(missing))
    trainable = 0
    for linear in chosen:
        trainable += lora_param_count(linear.in_features, linear.out_features, r)
    everything = 0
    for p in model.parameters():
        everything += p.numel()
    return ParamCount(trainable, everything)


def compression_ratio(in_features: int, out_features: int, r: int) -> float:
    weight = in_features * out_features
    adapter = lora_param_count(in_features, out_features, r)
    return float(weight) / float(adapter)


def break_even_rank(in_features: int, out_features: int) -> int:
    if in_features < 1:
        raise ValueError("in_features must be 1 or more but it is " + str(in_features))
    if out_features < 1:
        raise ValueError("out_features must be 1 or more but it is " + str(out_features))
    r = 1
    while r * (in_features + out_features) < in_features * out_features:
        r = r + 1
    return r


def full_finetune_memory(
    params: int, *, optimizer: str = "adam", mixed: bool = False, activations: int = 0
) -> Memory:
    if params < 0:
        raise ValueError("params must be 0 or more but it is " + str(params))
    if activations < 0:
        raise ValueError("activations must be 0 or more but it is " + str(activations))
    if optimizer != "adam" and optimizer != "sgd":
        raise ValueError("optimizer must be adam or sgd but it is " + optimizer)
    if mixed:
        weights = 2 * params
        gradients = 2 * params
        kept = 4 * params
    else:
        weights = 4 * params
        gradients = 4 * params
        kept = 0
    if optimizer == "adam":
        kept = kept + 4 * params
        kept = kept + 4 * params
    return Memory(weights=weights, gradients=gradients, optimizer=kept, activations=activations)


def lora_memory(
    frozen: int,
    trainable: int,
    *,
    optimizer: str = "adam",
    weight_bytes: int = FLOAT32,
    activations: int = 0,
) -> Memory:
    if frozen < 0:
        raise ValueError("frozen must be 0 or more but it is " + str(frozen))
    if trainable < 0:
        raise ValueError("trainable must be 0 or more but it is " + str(trainable))
    if weight_bytes != 2 and weight_bytes != 4:
        raise ValueError("weight_bytes must be 2 or 4 but it is " + str(weight_bytes))
    trained = full_finetune_memory(trainable, optimizer=optimizer, activations=activations)
    return Memory(
        weights=trained.weights + frozen * weight_bytes,
        gradients=trained.gradients,
        optimizer=trained.optimizer,
        activations=trained.activations,
    )


def nf4_bytes(
    params: int, block_size: int = 64, double_quant: bool = True, double_block_size: int = 256
) -> int:
    if params < 0:
        raise ValueError("params must be 0 or more but it is " + str(params))
    if block_size < 1:
        raise ValueError("block_size must be 1 or more but it is " + str(block_size))
    if double_block_size < 1:
        raise ValueError("double_block_size must be 1 or more but it is " + str(double_block_size))
    codes = math.ceil(params / 2)
    blocks = math.ceil(params / block_size)
    if double_quant:
        groups = math.ceil(blocks / double_block_size)
        return codes + blocks + groups * 4
    return codes + blocks * 4


def qlora_memory(
    quantised: int, others: int, trainable: int, *, optimizer: str = "adam", activations: int = 0
) -> Memory:
    if quantised < 0:
        raise ValueError("quantised must be 0 or more but it is " + str(quantised))
    if others < 0:
        raise ValueError("others must be 0 or more but it is " + str(others))
    if trainable < 0:
        raise ValueError("trainable must be 0 or more but it is " + str(trainable))
    trained = full_finetune_memory(trainable, optimizer=optimizer, activations=activations)
    weights = nf4_bytes(quantised)
    weights = weights + 2 * others
    weights = weights + trained.weights
    return Memory(weights, trained.gradients, trained.optimizer, trained.activations)


def linear_activations(
    in_features: int, tokens: int, *, mode: str = "full", r: int = 8, element_size: int = FLOAT32
) -> int:
    if mode == "full":
        numbers = in_features
    elif mode == "frozen":
        numbers = 0
    elif mode == "lora":
        if r < 1:
            raise ValueError("r must be 1 or more but it is " + str(r))
        numbers = in_features + r
    else:
        raise ValueError("mode must be full, frozen or lora but it is " + mode)
    return numbers * tokens * element_size


def minigpt_activations(
    config: MiniGPTConfig, batch: int, seq: int, *, r: int | None = None
) -> int:
    if batch < 1:
        raise ValueError("batch must be 1 or more but it is " + str(batch))
    if seq < 1:
        raise ValueError("seq must be 1 or more but it is " + str(seq))
    if r is not None and r < 1:
        raise ValueError("r must be 1 or more but it is " + str(r))
    total = 0
    tokens = batch * seq
    d = config.d_model
    for layer in range(config.n_layer):
        if r is None or layer > 0:
            total = total + 4 * tokens * (d + 2)  # ln1
        total = total + 4 * tokens * d  # q, k and v read it
        total = total + 4 * tokens * d * 3  # q, k, v
        total = total + 4 * tokens * d  # attention's output
        total = total + 4 * tokens * config.n_head  # log-sum-exp
        total = total + 4 * tokens * (d + 2)  # ln2
        total = total + 4 * tokens * d  # fc1
        total = total + 4 * tokens * config.d_ff  # gelu
        total = total + 4 * tokens * config.d_ff  # fc2
        if r is not None:
            total = total + 4 * tokens * r * 6
    total = total + 4 * tokens * (d + 2)  # ln_f
    if r is None:
        total = total + 4 * tokens * d  # lm_head
        total = total + 8 * tokens  # ids
        total = total + 8 * seq  # positions
    return total


def truth(claim: Claim) -> float:
    quantity = claim.quantity
    entries = 0
    adapter = 0
    for m in claim.matrices:
        entries = entries + m.copies * m.in_features * m.out_features
        adapter = adapter + m.copies * claim.r * (m.in_features + m.out_features)
    if quantity == "entries":
        figure = float(entries)
    elif quantity == "adapter":
        figure = float(adapter)
    elif quantity == "share":
        figure = adapter / claim.params
    elif quantity == "fewer":
        figure = claim.params / adapter
    elif quantity == "file":
        figure = float(adapter * claim.bytes_each)
    elif quantity == "stored":
        figure = float(claim.params * claim.bytes_each)
    elif quantity == "training":
        figure = 16.0 * claim.params
    elif quantity == "constants":
        figure = nf4_bytes(claim.params) * 8 / claim.params - 4
    elif quantity == "double quantisation":
        figure = float(
            nf4_bytes(claim.params, double_quant=False) - nf4_bytes(claim.params, double_quant=True)
        )
    elif quantity == "quotient":
        figure = claim.parts[0] / claim.parts[1]
    else:
        raise ValueError("I do not know the quantity " + quantity)
    return figure / UNITS[claim.unit]


def audit(claims: Iterable[Claim]) -> list[Verdict]:
    verdicts = []
    for claim in claims:
        figure = truth(claim)
        if claim.relation == "=":
            holds = figure >= claim.published - claim.step / 2
            holds = holds and figure <= claim.published + claim.step / 2
        elif claim.relation == "<":
            holds = figure < claim.published
        elif claim.relation == ">":
            holds = figure > claim.published
        else:
            raise ValueError("I do not know the relation " + claim.relation)
        verdicts.append(Verdict(claim, figure, holds))
    return verdicts
