"""Promises 4 GiB of header and of body."""

{{WIRES}}

shout(struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + b"{}")

{{EMPTY}}
