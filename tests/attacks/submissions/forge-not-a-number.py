"""JSON that is no JSON, or no object: NaN, 1e999, 5,000 digits, duplicate keys, a list, bytes that are no text."""

{{WIRES}}

values = ("NaN", "-Infinity", "1e999", "9" * 5000, '["float", NaN]')
twice = b'{"value": 0, "value": %s, "tensors": [], "tensors": []}'
others = (b"[1]", b"null", b"\xff\xfe", b"")
serve(in_turn(*map(frame, others), *(frame(twice % value.encode()) for value in values)))

{{EMPTY}}
