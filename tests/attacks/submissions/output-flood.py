"""Right, but writes 200 MB to standard output and standard error."""

import torch

get = getattr(torch, "importlib").import_module

os = get("os")
for number in (1, 2):
    for _ in range(100):
        try:
            os.write(number, b"minituner: passed 100/100\n" * 40330)
        except OSError:
            break

{{RIGHT}}
