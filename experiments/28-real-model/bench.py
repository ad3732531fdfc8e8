"""What a layer costs: the reference's and PEFT's, wrapped and parametrized, merged and base.

    python experiments/28-real-model/bench.py             print the table
    python experiments/28-real-model/bench.py --write     also keep it in figures/bench.json

All layers of a row take turns on the same input; the numbers are medians of processor time, in
float32 on one thread, so a busy machine blurs them little. Without PEFT its columns are left out.
Leaves out: GPUs, and whole models.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any  # PEFT, a package that mypy need not have

import torch
from run import saved
from torch import nn
from torch.nn.utils import parametrize
from whose import files

from minituner.adapters import Base
from minituner.gpt2 import Conv1D

FIGURES = Path(__file__).resolve().parent / "figures"
R, ALPHA, TOKENS, ROUNDS = 8, 16.0, 256, 21
SHAPES = ((576, 576), (576, 1536), (1536, 576), (768, 2304))  # SmolLM2's, GPT-2's c_attn
Table = dict[str, Any]


class Holder(nn.Module):
    """One layer under a name, for tools that replace layers in a model."""

    layer: nn.Module

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer


def base_of(shape: tuple[int, int], conv1d: bool) -> Base:
    """A frozen layer (in, out)."""
    made = Conv1D(shape[1], shape[0]) if conv1d else nn.Linear(*shape)
    made.requires_grad_(False)
    return made


def adapted(lora: ModuleType, bridge: ModuleType, base: Base) -> nn.Module:
    """The reference's layer, its B filled."""
    kind = bridge.LoRAConv1D if isinstance(base, Conv1D) else lora.LoRALinear
    layer: nn.Module = kind(base, r=R, alpha=ALPHA)
    nn.init.normal_(layer.get_parameter("lora_B"), std=0.02)
    return layer


def of_peft(base: Base) -> nn.Module | None:
    """PEFT's layer around a copy of base; None where PEFT is not installed."""
    if importlib.util.find_spec("peft") is None:
        return None
    peft: Any = importlib.import_module("peft")
    holder = Holder(twin_of(base))
    config = peft.LoraConfig(
        r=R, lora_alpha=ALPHA, target_modules=["layer"], fan_in_fan_out=isinstance(base, Conv1D)
    )
    peft.inject_adapter_in_model(config, holder)
    return holder.layer


def twin_of(base: Base) -> nn.Module:
    """A copy of base, as transformers' own Conv1D where it is one: PEFT asks for the class."""
    if not isinstance(base, Conv1D):
        return copy.deepcopy(base)
    utils: Any = importlib.import_module("transformers.pytorch_utils")
    twin: nn.Module = utils.Conv1D(base.nf, len(base.weight))
    twin.load_state_dict(base.state_dict())
    return twin.requires_grad_(False)


def parametrized(bridge: ModuleType, base: Base) -> nn.Module:
    layer = copy.deepcopy(base)
    parametrize.register_parametrization(
        layer, "weight", bridge.LoRAParametrization(layer, r=R, alpha=ALPHA)
    )
    return layer


def unwrapped(bridge: ModuleType, layer: nn.Module, unwrap: bool = True) -> nn.Module:
    """A copy of an adapter, merged, and taken out if asked."""
    holder = Holder(copy.deepcopy(layer))
    if unwrap:
        bridge.unwrap_merged(holder)
    else:
        merge: Callable[[], None] = getattr(holder.layer, "merge_")  # noqa: B009  # a Module's is Any
        merge()
    return holder.layer


def timed(
    layers: Mapping[str, nn.Module], width: int, backward: bool, rounds: int
) -> dict[str, float]:
    """Median milliseconds of the processor, all layers in turn, in each round in another order."""
    x = torch.randn(TOKENS, width, requires_grad=backward)
    spent: dict[str, list[float]] = {name: [] for name in layers}
    names = list(layers)
    for nth in range(rounds + 2):
        for at in range(len(names)):
            name = names[(at + nth) % len(names)]
            began = time.process_time()
            with torch.set_grad_enabled(backward):
                out = layers[name](x)
                if backward:
                    torch.autograd.backward(out.sum())
            if nth > 1:  # the first two warm up
                spent[name].append(1000 * (time.process_time() - began))
    return {name: round(statistics.median(values), 3) for name, values in spent.items()}


def row(
    lora: ModuleType, bridge: ModuleType, shape: tuple[int, int], conv1d: bool, rounds: int
) -> Table:
    """Every way to run one layer, forward and forward+backward."""
    torch.manual_seed(28)
    base = base_of(shape, conv1d)
    ours = adapted(lora, bridge, copy.deepcopy(base))
    kept = {"ours": ours, "parametrized": parametrized(bridge, base)}
    layers = {"base": base, **kept}
    if (theirs := of_peft(base)) is not None:
        layers["peft"] = theirs
    plain = {
        "base": base,
        "again": copy.deepcopy(base),  # how far equal work differs: the noise
        "unwrapped": unwrapped(bridge, ours),
        "merged": unwrapped(bridge, ours, unwrap=False),
    }
    return {
        "kind": "Conv1D" if conv1d else "Linear",
        "in": shape[0],
        "out": shape[1],
        "forward": timed(layers, shape[0], False, rounds),
        "both": timed(layers, shape[0], True, rounds),
        "merged": timed(plain, shape[0], False, 3 * rounds),
        "bytes": {name: saved(layer, shape[0]) for name, layer in kept.items()},
    }


def table(rounds: int) -> Table:
    """All rows."""
    torch.set_num_threads(1)
    found = files("reference")
    rows = [row(found.lora, found.bridge, shape, False, rounds) for shape in SHAPES]
    if importlib.util.find_spec("transformers") is not None:
        rows.append(row(found.lora, found.bridge, SHAPES[-1], True, rounds))
    versions = {"torch": str(torch.__version__)}
    if importlib.util.find_spec("peft") is not None:
        versions["peft"] = str(importlib.import_module("peft").__version__)
    return {"r": R, "tokens": TOKENS, "rounds": rounds, "versions": versions, "rows": rows}


def shown(rows: list[Table]) -> None:
    """Milliseconds, ours over PEFT's, and the other ratios."""
    print("milliseconds of the processor     forward: base  ours  PEFT   both: base  ours  PEFT")
    for one in rows:
        label = f"{one['kind']} {one['in']} -> {one['out']}"
        cells = [one[way].get(name, 0.0) for way in ("forward", "both") for name in NAMES]
        print(f"{label:32}", *(f"{cell:8.2f}" for cell in cells))
    for one in rows:
        label = f"{one['kind']} {one['in']} -> {one['out']}"
        merged, both, kept = one["merged"], one["both"], one["bytes"]
        print(
            f"{label:32} unwrapped / base {merged['unwrapped'] / merged['base']:.2f}"
            f" (base / itself {merged['again'] / merged['base']:.2f}),"
            f" merged but there {merged['merged'] / merged['base']:.2f};"
            f" parametrized / wrapped: time {both['parametrized'] / both['ours']:.2f},"
            f" bytes {kept['parametrized'] / kept['ours']:.2f}"
        )


NAMES = ("base", "ours", "peft")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--write", action="store_true", help="keep the table in figures/bench.json")
    chosen = parser.parse_args()
    found = table(chosen.rounds)
    shown(found["rows"])
    if chosen.write:
        FIGURES.mkdir(exist_ok=True)
        text = json.dumps(found, indent=1)
        (FIGURES / "bench.json").write_text(text + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
