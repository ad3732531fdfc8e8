"""Writes a true answer onto the wire for each of the next hundred questions."""

{{WIRES}}

shout(frame(b'{"value": true, "tensors": []}') * 100)

{{EMPTY}}
