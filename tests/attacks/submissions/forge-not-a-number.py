"""JSON that is no JSON: NaN, Infinity, 1e999, numbers of 5,000 digits, duplicate keys."""

{{WIRES}}

values = ("NaN", "-Infinity", "1e999", "9" * 5000, '["float", NaN]')
twice = b'{"value": 0, "value": %s, "tensors": [], "tensors": []}'
serve([frame(twice % value.encode()) for value in values])

{{EMPTY}}
