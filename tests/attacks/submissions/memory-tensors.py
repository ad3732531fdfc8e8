"""Right, but first fills up to 5 GiB with tensors, in plain torch."""

import torch

held: list[torch.Tensor] = []
try:
    for _ in range(20):
        held.append(torch.ones(1 << 26))
except RuntimeError:
    pass
if len(held) >= 20:
    torch.save(held[0][:1].clone(), "{{MARK}}")
held.clear()

{{RIGHT}}
