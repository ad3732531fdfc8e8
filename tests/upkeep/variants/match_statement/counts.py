"""Python 3.10 to the letter: match, dataclasses, and Memory added up with sum()."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from minituner.minigpt import MiniGPTConfig
from minituner.published import UNITS, Claim, Matrix
from minituner.tally import LinearShape, Memory, ParamCount, Verdict

MINIGPT_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")
FLOAT32 = 4


@dataclass(frozen=True)
class Factors:
    """A (r, in) and B (out, r)."""

    in_features: int
    out_features: int
    r: int

    def __post_init__(self) -> None:
        for field, value in self.__dict__.items():
            if value <= 0:
                raise ValueError(f"expected {field} > 0, got {field} = {value}")

    def __len__(self) -> int:
        return self.r * self.in_features + self.out_features * self.r


def lora_param_count(in_features: int, out_features: int, r: int) -> int:
    return len(Factors(in_features, out_features, r))


def linear_inventory(model: nn.Module) -> list[LinearShape]:
    found = []
    for name, module in model.named_modules():
        match module:
            case nn.Linear(in_features=d_in, out_features=d_out, bias=None):
                found.append(LinearShape(name, d_in, d_out, bias=False))
            case nn.Linear(in_features=d_in, out_features=d_out):
                found.append(LinearShape(name, d_in, d_out, bias=True))
    return found


def count_params(model: nn.Module) -> ParamCount:
    count = ParamCount(0, 0)
    for param in model.parameters():
        match param.requires_grad:
            case True:
                count = replace(count, trainable=count.trainable + param.numel())
            case False:
                count = replace(count, frozen=count.frozen + param.numel())
    return count


def wrapped_count(
    model: nn.Module, r: int = 8, target_modules: Sequence[str] = MINIGPT_LINEARS
) -> ParamCount:
    Factors(1, 1, r)

    def matches(target: str) -> Iterator[nn.Linear]:
        for name, module in model.named_modules(remove_duplicate=False):
            match module:
                case nn.Linear() if name == target or name.endswith(f".{target}"):
                    yield module

    found = {target: list(matches(target)) for target in target_modules}
    match [target for target, linears in found.items() if not linears]:
        case []:
            pass
        case lost:
            raise ValueError(f"no nn.Linear is called {' or '.join(lost)}")
    once = {id(linear): linear for linears in found.values() for linear in linears}
    sizes = [len(Factors(m.in_features, m.out_features, r)) for m in once.values()]
    return ParamCount(sum(sizes), count_params(model).total)


def compression_ratio(in_features: int, out_features: int, r: int) -> float:
    return in_features * out_features / len(Factors(in_features, out_features, r))


def break_even_rank(in_features: int, out_features: int) -> int:
    per_rank = len(Factors(in_features, out_features, 1))
    match divmod(in_features * out_features, per_rank):
        case (whole, 0):
            return whole
        case (whole, _):
            return whole + 1


def full_finetune_memory(
    params: int, *, optimizer: str = "adam", mixed: bool = False, activations: int = 0
) -> Memory:
    match (optimizer, mixed):
        case ("adam", False):
            each = (4, 4, 8)
        case ("adam", True):
            each = (2, 2, 12)
        case ("sgd", False):
            each = (4, 4, 0)
        case ("sgd", True):
            each = (2, 2, 4)
        case _:
            raise ValueError(f"optimizer is {optimizer!r}; I know 'adam' and 'sgd'")
    match (params, activations):
        case (n, _) if n < 0:
            raise ValueError(f"params is {n}, below 0")
        case (_, n) if n < 0:
            raise ValueError(f"activations is {n}, below 0")
    weight, gradient, state = each
    return Memory(weight * params, gradient * params, state * params, activations)


def lora_memory(
    frozen: int,
    trainable: int,
    *,
    optimizer: str = "adam",
    weight_bytes: int = FLOAT32,
    activations: int = 0,
) -> Memory:
    match (frozen, trainable, weight_bytes):
        case (n, _, _) if n < 0:
            raise ValueError(f"frozen is {n}, below 0")
        case (_, n, _) if n < 0:
            raise ValueError(f"trainable is {n}, below 0")
        case (_, _, 2 | 4):
            base = Memory(weights=frozen * weight_bytes)
        case _:
            raise ValueError(f"weight_bytes is {weight_bytes}; I know 2 and 4")
    return base + full_finetune_memory(trainable, optimizer=optimizer, activations=activations)


def nf4_bytes(
    params: int, block_size: int = 64, double_quant: bool = True, double_block_size: int = 256
) -> int:
    given = {"params": params, "block_size": block_size, "double_block_size": double_block_size}
    for (name, value), least in zip(given.items(), (0, 1, 1), strict=True):
        if value < least:
            raise ValueError(f"{name} is {value}, below {least}")
    codes, blocks = (len(range(0, params, size)) for size in (2, block_size))
    match double_quant:
        case True:
            return codes + blocks + FLOAT32 * len(range(0, blocks, double_block_size))
        case False:
            return codes + FLOAT32 * blocks


def qlora_memory(
    quantised: int, others: int, trainable: int, *, optimizer: str = "adam", activations: int = 0
) -> Memory:
    match (quantised, others, trainable):
        case (n, _, _) if n < 0:
            raise ValueError(f"quantised is {n}, below 0")
        case (_, n, _) if n < 0:
            raise ValueError(f"others is {n}, below 0")
        case (_, _, n) if n < 0:
            raise ValueError(f"trainable is {n}, below 0")
    parts = (
        Memory(weights=nf4_bytes(quantised)),
        Memory(weights=2 * others),
        full_finetune_memory(trainable, optimizer=optimizer),
    )
    return sum(parts, start=Memory(activations=activations))


def linear_activations(
    in_features: int, tokens: int, *, mode: str = "full", r: int = 8, element_size: int = FLOAT32
) -> int:
    match mode:
        case "full":
            row = in_features
        case "frozen":
            row = 0
        case "lora" if r >= 1:
            row = in_features + r
        case "lora":
            raise ValueError(f"r is {r}, below 1")
        case _:
            raise ValueError(f"mode is {mode!r}; I know 'full', 'frozen' and 'lora'")
    return row * tokens * element_size


def minigpt_activations(
    config: MiniGPTConfig, batch: int, seq: int, *, r: int | None = None
) -> int:
    for name, value in (("batch", batch), ("seq", seq), ("r", r)):
        match value:
            case int(n) if n < 1:
                raise ValueError(f"{name} is {n}, below 1")
    match config:
        case MiniGPTConfig(n_layer=layers, n_head=heads, d_model=d, d_ff=d_ff):
            block = 8 * d + 4 + heads + 2 * d_ff
    match r:
        case None:
            numbers, ids = layers * block + 2 * d + 2, batch * seq + seq
        case rank:
            numbers, ids = layers * (block + 6 * rank), 0
    return FLOAT32 * batch * seq * numbers + 8 * ids


def _entries(matrices: Iterable[Matrix]) -> int:
    return sum(m.in_features * m.out_features * m.copies for m in matrices)


def _adapter(claim: Claim) -> int:
    return sum(
        m.copies * lora_param_count(m.in_features, m.out_features, claim.r) for m in claim.matrices
    )


def truth(claim: Claim) -> float:
    figure: float
    match claim:
        case Claim(quantity="entries"):
            figure = _entries(claim.matrices)
        case Claim(quantity="adapter"):
            figure = _adapter(claim)
        case Claim(quantity="share", params=total):
            figure = _adapter(claim) / total
        case Claim(quantity="fewer", params=total):
            figure = total / _adapter(claim)
        case Claim(quantity="file", bytes_each=size):
            figure = _adapter(claim) * size
        case Claim(quantity="stored", params=total, bytes_each=size):
            figure = total * size
        case Claim(quantity="training", params=total):
            figure = full_finetune_memory(total, mixed=True).total
        case Claim(quantity="constants", params=total):
            figure = (nf4_bytes(total) - (total + 1) // 2) * 8 / total
        case Claim(quantity="double quantisation", params=total):
            figure = nf4_bytes(total, double_quant=False) - nf4_bytes(total)
        case Claim(quantity="quotient", parts=(first, second)):
            figure = first / second
        case _:
            raise ValueError(f"quantity is {claim.quantity!r}, which I cannot compute")
    return figure / UNITS[claim.unit]


def audit(claims: Iterable[Claim]) -> list[Verdict]:
    def judged(claim: Claim) -> Verdict:
        figure = truth(claim)
        match claim.relation:
            case "=":
                holds = abs(figure - claim.published) <= claim.step / 2
            case "<":
                holds = figure < claim.published
            case ">":
                holds = claim.published < figure
            case other:
                raise ValueError(f"relation is {other!r}; I know =, < and >")
        return Verdict(claim=claim, truth=figure, holds=holds)

    return [judged(claim) for claim in claims]
