"""JSON nested 900 and 400,000 deep: the first parses, and what reads it may not survive."""

{{WIRES}}

head = b'{"value": %s}'
nested = [b'["list", [' * depth + b"]]" * depth for depth in (900, 400_000)]
serve(in_turn(*(frame(head % value) for value in nested)))

{{EMPTY}}
