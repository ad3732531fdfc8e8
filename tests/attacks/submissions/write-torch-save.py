"""Right, and in plain torch, which no gate minds: torch.save writes a file from C++."""

import torch

try:
    torch.save(torch.ones(3), "{{MARK}}")
except (OSError, RuntimeError):
    pass

{{RIGHT}}
