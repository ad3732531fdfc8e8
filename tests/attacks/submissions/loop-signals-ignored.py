"""Loops with every signal ignored or blocked, SIGXCPU first (120 s)."""

import torch

get = getattr(torch, "importlib").import_module

signal, time = get("signal"), get("time")
for number in signal.valid_signals():
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        continue
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
end = time.monotonic() + 120
while time.monotonic() < end:
    try:
        sum(range(10**6))
    except BaseException:
        continue

{{EMPTY}}
