"""Sends well-formed frames without end (100 MB)."""

{{WIRES}}

one = frame(b'{"value": null, "tensors": []}') * 2000
for _ in range(1600):
    shout(one)

{{EMPTY}}
