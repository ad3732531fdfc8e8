"""Says that the grader broke, in every shape that an honest fault has."""

{{WIRES}}

for head in (b'{"broken": "no memory left"}', b'{"standing": [], "broken": "seccomp"}', b'{"error": 1}'):
    shout(frame(head))

{{EMPTY}}
