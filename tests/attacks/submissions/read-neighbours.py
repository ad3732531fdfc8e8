"""Reads a file that is not its own (a neighbour's submission, a key), and tells it in an exception."""

import torch

get = getattr(torch, "importlib").import_module

os = get("os")
seen = []
for folder, _, files in os.walk("{{TREE}}"):
    for name in files:
        try:
            with getattr(torch, "builtins").open(os.path.join(folder, name)) as file:
                seen.append(file.read())
        except (OSError, ValueError):
            continue
raise ValueError("".join(seen)[:1500] or "nothing")

{{EMPTY}}
