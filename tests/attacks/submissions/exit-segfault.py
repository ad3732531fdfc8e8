"""Reads address 0 by ctypes: a crash at import."""

import torch

get = getattr(torch, "importlib").import_module

get("ctypes").string_at(0)

{{EMPTY}}
