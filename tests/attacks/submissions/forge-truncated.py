"""Promises a frame, sends half of it and stays silent (60 s)."""

{{WIRES}}

shout(struct.pack("<II", 4096, 4096) + b'{"value": ')
time.sleep(60)

{{EMPTY}}
