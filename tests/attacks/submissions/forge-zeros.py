"""Answers each question with a tensor of zeros."""

{{WIRES}}

zeros = []
for shape, count in (("[]", 1), ("[3]", 3), ("[4, 4]", 16)):
    head = b'{"value": ["t", 0, true], "tensors": [["float64", %s]]}' % shape.encode()
    zeros.append(frame(head, bytes(8 * count)))
serve(in_turn(*zeros))

{{EMPTY}}
