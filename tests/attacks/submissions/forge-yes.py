"""Answers every question with true."""

{{WIRES}}

serve(in_turn(frame(b'{"value": true, "tensors": []}')))

{{EMPTY}}
