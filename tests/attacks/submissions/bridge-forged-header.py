"""Right but for adapter_files: safetensors headers that lie about lengths, shapes and offsets, in turn."""

{{RIGHT}}


import json

right_files = adapter_files


def headers():
    row = {"dtype": "F64", "shape": [2, 8], "data_offsets": [0, 128]}
    yield from (2**63 - 1, 0, -1)
    yield from (b"[" * 100_000, b'{"a": ' * 50_000, b"[]", b'{"a": 1e999999}', b'{"a": ' + b"9" * 5000 + b"}")
    for changed in (
        {"shape": [2**62, 8]},
        {"shape": [-1, -16]},
        {"shape": [0, 10**30]},
        {"shape": [1] * 5000},
        {"shape": 16},
        {"data_offsets": [0, 2**70]},
        {"data_offsets": [-128, 0]},
        {"data_offsets": "ab"},
        {"data_offsets": [0.0, 128.0]},
        {"dtype": ["F64"]},
        {"dtype": "F4"},
    ):
        yield json.dumps({"a": row | changed}).encode()
    yield json.dumps({str(i): row for i in range(4000)}).encode()  # all of them the same bytes
    yield json.dumps({"a": row, "b": row | {"data_offsets": [64, 192]}}).encode()


turns = headers()


def adapter_files(model, base_name=None):
    global turns
    files = right_files(model, base_name)
    head = next(turns, None)
    if head is None:
        turns = headers()
        head = next(turns)
    if isinstance(head, int):
        weights = (head % 2**64).to_bytes(8, "little") + b"{}"
    else:
        weights = len(head).to_bytes(8, "little") + head + bytes(192)
    return {name: content if name.endswith("json") else weights for name, content in files.items()}
