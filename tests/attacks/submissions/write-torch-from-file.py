"""Right, and in plain torch: a shared, file-backed tensor makes the file."""

import torch

try:
    torch.from_file("{{MARK}}", shared=True, size=64).fill_(1.0)
except RuntimeError:
    pass

{{RIGHT}}
