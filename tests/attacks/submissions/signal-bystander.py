"""Right, but kills a process of the same user that has nothing to do with it."""

import torch

get = getattr(torch, "importlib").import_module

os = get("os")
for number in (15, 9):
    try:
        os.kill(int("{{VICTIM}}"), number)
    except OSError:
        continue

{{RIGHT}}
