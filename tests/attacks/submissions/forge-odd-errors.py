"""Answers whose fields have the wrong types: kinds, said, at, step, dictionary keys, lone surrogates."""

{{WIRES}}

HEADS = (
    b'{"raised": 7}',
    b'{"value": ["dict", [[["list", []], 1]]]}',
    b'{"raised": {}}',
    b'{"value": ["dict", [1, 2]]}',
    b'{"raised": {"kinds": 7, "said": null, "at": 1}}',
    b'{"value": ["odd"]}',
    b'{"raised": {"kinds": [], "said": "\\ud800", "at": ["lora.py", 1e400]}, "step": -1}',
    b'{"value": ["what", [1]]}',
    b'{"raised": {"kinds": ["X"], "said": "x", "at": ["/etc/passwd", 1]}, "step": "a"}',
    b'{"value": []}',
    b'{"raised": {"kinds": [{}], "said": {}, "at": ["lora.py"]}, "step": 10000}',
    b'{"value": {"a": 1}}',
)
serve(in_turn(*map(frame, HEADS)))

{{EMPTY}}
