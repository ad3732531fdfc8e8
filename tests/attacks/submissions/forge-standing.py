"""Repeats the worker's first frame: layers that stand."""

{{WIRES}}

shout(frame(b'{"standing": ["user", "uid", "landlock", "seccomp", "net", "pid"]}') * 3)

{{EMPTY}}
