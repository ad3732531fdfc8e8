"""JSON nested 900 and 400,000 deep: the first parses, and what reads it may not survive."""

{{WIRES}}

for depth in (900, 400_000):
    shout(frame(b'{"value": ' + b'["list", [' * depth + b"]]" * depth + b"}"))

{{EMPTY}}
