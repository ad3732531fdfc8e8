"""JSON that is no JSON: NaN, Infinity, 1e999, numbers of 5,000 digits, duplicate keys."""

{{WIRES}}

for value in ("NaN", "-Infinity", "1e999", "9" * 5000, '["float", NaN]'):
    shout(frame(b'{"value": 0, "value": %s, "tensors": [], "tensors": []}' % value.encode()))

{{EMPTY}}
