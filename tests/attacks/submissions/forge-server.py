"""Takes the wire over, and echoes the tensors of each question as its answer (120 s)."""

{{WIRES}}

json = get("json")

for fd in wires():
    os.write(fd, frame(b'{"value": null, "tensors": []}'))
    end = time.monotonic() + 120
    while time.monotonic() < end:
        head, body = struct.unpack("<II", read(fd, 8))
        asked, held = json.loads(read(fd, head)), read(fd, body)
        rows = asked.get("tensors", [])
        value = ["t", 0, True] if rows else True
        os.write(fd, frame(json.dumps({"value": value, "tensors": rows}).encode(), held))

{{EMPTY}}
