"""The values behind the theory pages: closed forms, and measurements of the reference.

Fixed seeds; solutions/lora.py is loaded as a file, never as minituner.lora.
"""

from __future__ import annotations

import ast
import inspect
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from theory_numbers import About
from together import together
from torch import Tensor, nn

from minituner.minigpt import MiniGPTConfig

if TYPE_CHECKING:  # for its types only: the code that runs is the reference
    from minituner.lora import LoRALinear

ROOT = Path(__file__).parents[2]


@cache
def reference() -> ModuleType:
    """solutions/lora.py, loaded as a file."""
    module: ModuleType = together(ROOT / "solutions", "lora").lora
    return module


def lora_linear(base: nn.Linear, r: int, alpha: float) -> LoRALinear:
    layer: LoRALinear = reference().LoRALinear(base, r=r, alpha=alpha)
    return layer


def default(name: str) -> float:
    return float(inspect.signature(reference().LoRALinear).parameters[name].default)


def contract(name: str) -> list[ast.AST]:
    """Every syntax node of a function of the contract, in the order of the source."""
    tree = ast.parse((ROOT / "tests" / "test_minituner.py").read_text(encoding="utf-8"))
    (found,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    return sorted(ast.walk(found), key=lambda node: getattr(node, "lineno", 0))


def tensors(name: str) -> list[Tensor]:
    """The literal torch.tensor(...) of a function of the contract."""
    calls = [node for node in contract(name) if isinstance(node, ast.Call)]
    named = [call for call in calls if ast.unparse(call.func) == "torch.tensor"]
    return [torch.tensor(ast.literal_eval(call.args[0]), dtype=torch.float64) for call in named]


def keyword(name: str, argument: str) -> int:
    """The literal value of a keyword argument in a function of the contract."""
    nodes = [n for n in contract(name) if isinstance(n, ast.keyword) and n.arg == argument]
    return int(ast.literal_eval(nodes[0].value))


def bound(name: str) -> float:
    """The bound that a test of the contract compares with `<`."""
    nodes = [n for n in contract(name) if isinstance(n, ast.Compare)]
    (limit,) = (n.comparators[0] for n in nodes if isinstance(n.ops[0], ast.Lt))
    return float(ast.literal_eval(limit))


R, ALPHA = 8, 16.0
SIDE = MiniGPTConfig().d_model
ROWS, LAYERS, BFLOAT16_LAYERS, STEP_LAYERS = 32, 100, 20, 25
REALISTIC_B, LARGE_B = 0.02, 0.3  # standard deviations


def size(r: int, *shapes: tuple[int, int]) -> int:
    """What adapters of rank r train on linears of these (in, out) shapes."""
    return sum(r * (d_in + d_out) for d_in, d_out in shapes)


def filled(seed: int, dtype: torch.dtype, own_a: bool, b_std: float) -> LoRALinear:
    """A square layer with A as task A3 draws it, or from N(0, 1), and B from b_std · N(0, 1)."""
    torch.manual_seed(seed)
    layer = lora_linear(nn.Linear(SIDE, SIDE, dtype=dtype), R, ALPHA)
    with torch.no_grad():
        if not own_a:
            layer.lora_A.normal_()
        layer.lora_B.normal_(std=b_std)
    return layer


@cache
def merged(dtype: torch.dtype, own_a: bool, b_std: float) -> tuple[list[float], list[float]]:
    """max|merged(x) - layer(x)| and max|layer(x)|, of LAYERS layers."""
    gaps, outputs = [], []
    for seed in range(LAYERS):
        layer = filled(seed, dtype, own_a, b_std)
        x = torch.randn(ROWS, SIDE, dtype=dtype)
        before = layer(x).detach()
        layer.merge_()
        gaps.append((layer(x) - before).abs().max().item())
        outputs.append(before.abs().max().item())
    return gaps, outputs


def typical_gap(dtype: torch.dtype, own_a: bool, b_std: float) -> About:
    return About(statistics.median(merged(dtype, own_a, b_std)[0]))


@cache
def right_in_bfloat16(b_std: float) -> tuple[float, float]:
    """% of weights equal to the exact sum rounded once: update rounded first, and by merge_."""
    first = by_merge = total = 0
    for seed in range(BFLOAT16_LAYERS):
        layer = filled(seed, torch.bfloat16, True, b_std)
        weight = layer.base.weight.detach().clone()
        update = layer.scaling * (layer.lora_B.detach().double() @ layer.lora_A.detach().double())
        want = (weight.double() + update).to(torch.bfloat16)
        layer.merge_()
        first += int((weight + update.to(torch.bfloat16) == want).sum())
        by_merge += int((layer.base.weight == want).sum())
        total += want.numel()
    return 100 * first / total, 100 * by_merge / total


Direction = Callable[[Tensor], Tensor]


def sgd(gradient: Tensor) -> Tensor:
    return gradient


def adam(gradient: Tensor) -> Tensor:
    """Adam's first step: after bias correction both moments are those of this one gradient."""
    return gradient / (gradient.square().sqrt() + 1e-8)


def first_step(direction: Direction, r: int, scale: float) -> float:
    """How far an optimiser's first step lowers a linear loss, as the mean of STEP_LAYERS layers."""
    drops: list[float] = []
    for seed in range(STEP_LAYERS):
        torch.manual_seed(seed)
        layer = lora_linear(nn.Linear(SIDE, SIDE), r, scale * r)
        x, G = torch.randn(ROWS, SIDE), torch.randn(ROWS, SIDE)
        before = (layer(x) * G).sum()
        torch.autograd.backward(before)
        with torch.no_grad():
            for factor in (layer.lora_A, layer.lora_B):
                assert factor.grad is not None
                factor.sub_(1e-3 * direction(factor.grad))
        drops.append((before - (layer(x) * G).sum()).item())
    return statistics.mean(drops)


def step_gains(direction: Direction) -> list[About]:
    """first_step at 2 R against R, with the scale fixed, then alpha / r, then alpha / √r."""
    scale = ALPHA / R
    at_r = first_step(direction, R, scale)
    scales = (scale, scale / 2, scale / 2**0.5)
    return [About(first_step(direction, 2 * R, s) / at_r, digits=2) for s in scales]
