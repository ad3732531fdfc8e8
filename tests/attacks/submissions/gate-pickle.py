"""Right, but has torch.load run a pickle that opens a file for writing."""

import torch

io = getattr(torch, "importlib").import_module("io")
try:
    torch.load(
        io.BytesIO(b"cbuiltins\nopen\n(V{{MARK}}\nVw\ntR."), weights_only=False
    )
except Exception:
    pass

{{RIGHT}}
