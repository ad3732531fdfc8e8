"""Shuts down and closes every socket it holds, then goes on as if nothing were."""

{{WIRES}}

for fd in wires():
    os.close(fd)

{{EMPTY}}
