"""Answers every question with true."""

{{WIRES}}

serve([frame(b'{"value": true, "tensors": []}')])

{{EMPTY}}
