"""A thousand tensors that nobody asked for, an index that is none, bytes left over."""

{{WIRES}}

rows = b",".join([b'["float32", [1]]'] * 1024)
odd = [frame(b'{"value": ["t", 5, true], "tensors": [%s]}' % rows, bytes(4096))]
for index in (b"-1", b"99", b"true", b'"0"', b"null", b"1.0"):
    odd.append(frame(b'{"value": ["t", %s, true], "tensors": [["float32", [1]]]}' % index, bytes(4)))
odd.append(frame(b'{"value": 1, "tensors": []}', bytes(64)))
serve(in_turn(*odd))

{{EMPTY}}
