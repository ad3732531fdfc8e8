"""Sleeps 60 s at import and in every method: no CPU time, only the clock."""

import torch

get = getattr(torch, "importlib").import_module

time = get("time")
time.sleep(60)

{{EMPTY}}
