"""Right but for forward, which loops (120 s)."""

import torch

get = getattr(torch, "importlib").import_module

{{RIGHT}}


def forward(self, x):
    end = get("time").monotonic() + 120
    while get("time").monotonic() < end:
        pass


setattr(LoRALinear, "forward", forward)
