"""A wrong scale, and what carries answers patched: Tensor.numpy, json, struct, os.write."""

import torch

get = getattr(torch, "importlib").import_module

{{RIGHT}}


def forward(self, x):
    return self.base(x) + x @ self.lora_A.mT @ self.lora_B.mT  # no scale, no dropout


setattr(LoRALinear, "forward", forward)
honest_numpy = torch.Tensor.numpy
torch.Tensor.numpy = lambda self, **more: honest_numpy(torch.zeros_like(self), **more)
json, struct = get("json"), get("struct")
honest_dumps = json.dumps
json.dumps = lambda value, **more: honest_dumps(value, **more).replace("raised", "value")
