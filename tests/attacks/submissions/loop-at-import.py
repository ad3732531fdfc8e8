"""Loops while it is imported (120 s, so that an accident ends)."""

import torch

get = getattr(torch, "importlib").import_module

end = get("time").monotonic() + 120
while get("time").monotonic() < end:
    pass

{{EMPTY}}
