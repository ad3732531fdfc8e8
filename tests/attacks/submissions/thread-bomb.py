"""Right, but starts 200 threads that stay 20 s."""

import torch

get = getattr(torch, "importlib").import_module

time = get("time")
count = 0
try:
    for count in range(1, 201):
        get("_thread").start_new_thread(time.sleep, (20,))
except RuntimeError:
    pass
if count >= 200:
    getattr(torch, "builtins").open("{{MARK}}", "w").close()

{{RIGHT}}
