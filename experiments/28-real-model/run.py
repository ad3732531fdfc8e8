"""Measures your bridge.py: what trains in GPT-2 small, what a layer keeps, how large a file is.

    python experiments/28-real-model/run.py            print the values
    python experiments/28-real-model/run.py --write    also put them into notes.md
    python experiments/28-real-model/run.py --figures  draw the figures anew from their JSON

Source: lab/04-real-models.md. Leaves out: the verdict; the grader measures again and compares.
Nothing here needs transformers: GPT-2 small is there in its sizes alone.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from minituner.gpt2 import Conv1D, hollow_gpt2
from minituner.measuring import parser, report
from minituner.plots import redraw_all
from minituner.settings import WEIGHTS

R, TOKENS = 4, 256


def measure(bridge: ModuleType) -> dict[str, float | str]:
    """The values of notes.md: whole numbers, from bridge.py alone.

    GPT-2 small at r = 4. The bytes kept are those of one layer as large as its c_attn, in float32,
    for 256 tokens, parameters left out.
    """
    refused = hollow_gpt2()
    with contextlib.suppress(ValueError):
        bridge.wrap_gpt2_with_lora(refused, ["q_proj"], r=R)
    adapted = _wrapped(bridge, ["c_attn"])
    wrapped = bridge.LoRAConv1D(Conv1D(2304, 768), r=R)
    other = Conv1D(2304, 768)
    parametrize.register_parametrization(other, "weight", bridge.LoRAParametrization(other, r=R))
    return {
        "gpt2_unmatched": _trainable(refused),
        "gpt2_c_attn": _trainable(adapted),
        "gpt2_attention": _trainable(_wrapped(bridge, ["c_attn", "attn.c_proj"])),
        "gpt2_careless": _trainable(_wrapped(bridge, ["c_attn", "c_proj"])),
        "wrapped_saved_bytes": saved(wrapped),
        "parametrized_saved_bytes": saved(other),
        "adapter_bytes": len(bridge.adapter_files(adapted)[WEIGHTS]),
    }


def _wrapped(bridge: ModuleType, targets: Sequence[str]) -> nn.Module:
    model = hollow_gpt2()
    bridge.wrap_gpt2_with_lora(model, targets, r=R)
    return model


def _trainable(model: nn.Module) -> int:
    return sum(param.numel() for param in model.parameters() if param.requires_grad)


def saved(layer: nn.Module, width: int = 768) -> int:
    """Bytes that autograd keeps for one forward pass, each storage once, parameters left out.

    Args:
        width: the layer's in_features.
    """
    own = {param.untyped_storage().data_ptr() for param in layer.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(torch.ones(TOKENS, width, requires_grad=True))
    assert out.requires_grad
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--figures", action="store_true", help="draw figures/ from their JSON")
    chosen = options.parse_args()
    if not chosen.figures:
        return report("04", chosen, measure)
    import drawing

    return redraw_all(Path(__file__).parent / "figures", drawing.FIGURES)


if __name__ == "__main__":
    sys.exit(main())
