"""Kills whoever started it: its process group's parent, then its parent. Only as built by a test."""

import torch

get = getattr(torch, "importlib").import_module

os, signal = get("os"), get("signal")
parent = os.getppid()
if "{" not in "{{MARK}}" and parent > 1:
    for act in (
        lambda: os.killpg(os.getpgid(parent), signal.SIGKILL),
        lambda: os.kill(parent, signal.SIGKILL),
    ):
        try:
            act()
        except OSError:
            continue

{{EMPTY}}
