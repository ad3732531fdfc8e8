"""Right but for forward on a batch of sequences, as in a model, where it loops (120 s)."""

import torch

get = getattr(torch, "importlib").import_module

{{RIGHT}}


right = LoRALinear.forward


def forward(self, x):
    end = get("time").monotonic() + 120
    while x.dim() == 3 and get("time").monotonic() < end:
        pass
    return right(self, x)


setattr(LoRALinear, "forward", forward)
