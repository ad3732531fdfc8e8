"""Right, but first fills up to 5 GiB, 256 MiB at a time, until there is no more."""

import torch

get = getattr(torch, "importlib").import_module

held: list[bytes] = []
try:
    for _ in range(20):
        held.append(b"x" * (1 << 28))
except MemoryError:
    pass
if len(held) >= 20:
    getattr(torch, "builtins").open("{{MARK}}", "w").close()
held.clear()

{{RIGHT}}
