"""Trees are walked by hand: recursion over children, generators, and closed forms by recursion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import nn

from minituner.minigpt import MiniGPTConfig
from minituner.published import UNITS, Claim, Matrix
from minituner.tally import LinearShape, Memory, ParamCount, Verdict

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FLOAT32 = 4


def _at_least(least: int, value: int, name: str) -> int:
    if value >= least:
        return value
    raise TypeError(f"{name} has to be {least} or more, and is {value}")


def _walk(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(child, f"{path}.{name}" if path else name)


def _params(module: nn.Module) -> dict[int, nn.Parameter]:
    own = {id(p): p for p in module._parameters.values() if p is not None}
    for child in module.children():
        own |= _params(child)
    return own


def _split(count: int, size: int) -> int:
    """How many pieces of a size it takes to hold count things."""
    whole, rest = divmod(count, size)
    return whole + bool(rest)


def lora_param_count(in_features: int, out_features: int, r: int) -> int:
    _at_least(1, in_features, "in_features")
    _at_least(1, out_features, "out_features")
    return _at_least(1, r, "r") * (in_features + out_features)


def linear_inventory(model: nn.Module) -> list[LinearShape]:
    first: dict[int, LinearShape] = {}
    for path, module in _walk(model):
        if isinstance(module, nn.Linear) and id(module) not in first:
            out_features, in_features = module.weight.shape
            first[id(module)] = LinearShape(
                path, in_features, out_features, isinstance(module.bias, nn.Parameter)
            )
    return [*first.values()]


def count_params(model: nn.Module) -> ParamCount:
    every = _params(model).values()
    frozen = sum(p.nelement() for p in every if not p.requires_grad)
    return ParamCount(sum(p.nelement() for p in every) - frozen, frozen)


def wrapped_count(
    model: nn.Module, r: int = 8, target_modules: Sequence[str] = MINIGPT_LINEARS
) -> ParamCount:
    _at_least(1, r, "r")
    matched: dict[int, int] = {}
    met: set[str] = set()

    def visit(module: nn.Module, path: tuple[str, ...]) -> None:
        if isinstance(module, nn.Linear):
            for target in target_modules:
                parts = tuple(target.split("."))
                if path[-len(parts) :] == parts:
                    met.add(target)
                    sizes = module.in_features, module.out_features
                    matched[id(module)] = lora_param_count(*sizes, r)
        for name, child in module._modules.items():
            if child is not None:
                visit(child, (*path, name))

    visit(model, ())
    unmet = [target for target in target_modules if target not in met]
    if unmet:
        raise ValueError(f"target_modules: {unmet} would wrap nothing")
    every = sum(p.nelement() for p in _params(model).values())
    return ParamCount(sum(matched.values()), every)


def compression_ratio(in_features: int, out_features: int, r: int) -> float:
    adapter = lora_param_count(in_features, out_features, r)
    return in_features / adapter * out_features


def break_even_rank(in_features: int, out_features: int) -> int:
    _at_least(1, in_features, "in_features")
    _at_least(1, out_features, "out_features")

    def search(low: int, high: int) -> int:
        """The smallest r in low … high that is enough; high is."""
        if low == high:
            return low
        middle = (low + high) // 2
        enough = middle * (in_features + out_features) >= in_features * out_features
        return search(low, middle) if enough else search(middle + 1, high)

    return search(1, min(in_features, out_features))


def full_finetune_memory(
    params: int, *, optimizer: str = "adam", mixed: bool = False, activations: int = 0
) -> Memory:
    _at_least(0, params, "params")
    _at_least(0, activations, "activations")
    states = {"adam": ["exp_avg", "exp_avg_sq"], "sgd": []}.get(optimizer)
    if states is None:
        raise ValueError(f"no such optimizer here: {optimizer}")
    if mixed:
        states = [*states, "master"]
    width = 2 if mixed else 4
    return Memory(
        weights=width * params,
        gradients=width * params,
        optimizer=sum(4 * params for _ in states),
        activations=activations,
    )


def lora_memory(
    frozen: int,
    trainable: int,
    *,
    optimizer: str = "adam",
    weight_bytes: int = FLOAT32,
    activations: int = 0,
) -> Memory:
    _at_least(0, trainable, "trainable")
    if weight_bytes not in (2, 4):
        raise ValueError(f"weight_bytes: {weight_bytes} is neither 2 nor 4")
    base = Memory(weight_bytes * _at_least(0, frozen, "frozen"))
    return base + full_finetune_memory(trainable, optimizer=optimizer, activations=activations)


def nf4_bytes(
    params: int, block_size: int = 64, double_quant: bool = True, double_block_size: int = 256
) -> int:
    _at_least(0, params, "params")
    _at_least(1, block_size, "block_size")
    _at_least(1, double_block_size, "double_block_size")
    blocks = _split(params, block_size)
    groups = _split(blocks, double_block_size)
    return _split(params, 2) + (blocks + 4 * groups if double_quant else 4 * blocks)


def qlora_memory(
    quantised: int, others: int, trainable: int, *, optimizer: str = "adam", activations: int = 0
) -> Memory:
    _at_least(0, quantised, "quantised")
    _at_least(0, others, "others")
    rest = lora_memory(
        others, trainable, optimizer=optimizer, weight_bytes=2, activations=activations
    )
    return Memory(
        rest.weights + nf4_bytes(quantised), rest.gradients, rest.optimizer, rest.activations
    )


def linear_activations(
    in_features: int, tokens: int, *, mode: str = "full", r: int = 8, element_size: int = FLOAT32
) -> int:
    saved: dict[str, Callable[[], int]] = {
        "full": lambda: in_features,
        "frozen": lambda: 0,
        "lora": lambda: in_features + _at_least(1, r, "r"),
    }
    try:
        return saved[mode]() * tokens * element_size
    except KeyError:
        raise ValueError(f"mode {mode} is none of {', '.join(saved)}") from None


def minigpt_activations(
    config: MiniGPTConfig, batch: int, seq: int, *, r: int | None = None
) -> int:
    tokens = _at_least(1, batch, "batch") * _at_least(1, seq, "seq")
    if r is not None:
        _at_least(1, r, "r")

    def norm() -> int:
        return config.d_model + 2

    def linear(d_in: int) -> int:
        return linear_activations(d_in, 1, mode="full", element_size=1)

    def adapters(d_in: int, many: int) -> int:
        """What the linears that read one tensor keep of it, and each adapter's h."""
        return linear(d_in) + (0 if r is None else many * r)

    def blocks(left: int) -> int:
        if left == 0:
            return 0
        attention = adapters(config.d_model, 3) + 3 * config.d_model + config.n_head
        attention += adapters(config.d_model, 1)
        mlp = adapters(config.d_model, 1) + config.d_ff + adapters(config.d_ff, 1)
        return norm() + attention + norm() + mlp + blocks(left - 1)

    if r is None:
        numbers = blocks(config.n_layer) + norm() + linear(config.d_model)
        return FLOAT32 * tokens * numbers + 8 * (tokens + seq)
    return FLOAT32 * tokens * blocks(config.n_layer)


def _total(matrices: tuple[Matrix, ...], size: Callable[[Matrix], int]) -> int:
    if not matrices:
        return 0
    first, *rest = matrices
    return first.copies * size(first) + _total(tuple(rest), size)


def truth(claim: Claim) -> float:
    def adapter() -> int:
        return _total(
            claim.matrices, lambda m: lora_param_count(m.in_features, m.out_features, claim.r)
        )

    def plain() -> float:
        if claim.quantity == "entries":
            return _total(claim.matrices, lambda m: m.in_features * m.out_features)
        if claim.quantity == "adapter":
            return adapter()
        if claim.quantity == "share":
            return adapter() / claim.params
        if claim.quantity == "fewer":
            return claim.params / adapter()
        if claim.quantity == "file":
            return adapter() * claim.bytes_each
        if claim.quantity == "stored":
            return claim.params * claim.bytes_each
        if claim.quantity == "training":
            return full_finetune_memory(claim.params, mixed=True).total
        single, double = (nf4_bytes(claim.params, double_quant=q) for q in (False, True))
        if claim.quantity == "constants":
            return double * 8 / claim.params - 4
        if claim.quantity == "double quantisation":
            return single - double
        if claim.quantity == "quotient":
            return claim.parts[0] / claim.parts[1]
        raise ValueError(f"quantity {claim.quantity} is not in published.QUANTITIES")

    return plain() / UNITS[claim.unit]


def audit(claims: Iterable[Claim]) -> list[Verdict]:
    def one_by_one() -> Iterator[Verdict]:
        for claim in claims:
            figure = truth(claim)
            off = figure - claim.published
            if claim.relation == "=":
                yield Verdict(claim, figure, -claim.step <= 2 * off <= claim.step)
            elif claim.relation in ("<", ">"):
                yield Verdict(claim, figure, (off < 0) if claim.relation == "<" else (off > 0))
            else:
                raise ValueError(f"relation {claim.relation} is none of =, <, >")

    return list(one_by_one())
