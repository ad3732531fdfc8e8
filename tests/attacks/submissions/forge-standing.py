"""Answers with the worker's first frame: layers that stand."""

{{WIRES}}

serve(in_turn(frame(b'{"standing": ["user", "uid", "landlock", "seccomp", "net", "pid"]}')))

{{EMPTY}}
