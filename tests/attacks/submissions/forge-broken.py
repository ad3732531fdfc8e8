"""Says that the grader broke, in every shape that an honest fault has."""

{{WIRES}}

HEADS = (b'{"broken": "no memory left"}', b'{"standing": [], "broken": "seccomp"}', b'{"error": 1}')
serve(in_turn(*map(frame, HEADS)))

{{EMPTY}}
