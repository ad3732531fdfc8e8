"""One long call into C that no Python signal handler interrupts: a regular expression that backtracks."""

import torch

get = getattr(torch, "importlib").import_module

get("re").match("(a+)+$", "a" * 33 + "b")

{{EMPTY}}
