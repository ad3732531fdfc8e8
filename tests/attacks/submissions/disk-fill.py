"""Right, but fills the disk: up to 200 MB into a file."""

import torch

get = getattr(torch, "importlib").import_module

try:
    with getattr(torch, "builtins").open("{{MARK}}", "wb") as file:
        for _ in range(200):
            file.write(b"x" * 1_000_000)
except OSError:
    pass

{{RIGHT}}
