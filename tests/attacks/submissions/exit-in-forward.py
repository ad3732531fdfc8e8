"""Right but for forward, which ends the process with exit code 0."""

import torch

get = getattr(torch, "importlib").import_module

{{RIGHT}}


def forward(self, x):
    get("os")._exit(0)


setattr(LoRALinear, "forward", forward)
