"""Becomes a shell that writes a file and exits with 0."""

import torch

get = getattr(torch, "importlib").import_module

try:
    get("os").execv("/bin/sh", ["sh", "-c", "echo here > '{{MARK}}'"])
except OSError:
    pass

{{EMPTY}}
