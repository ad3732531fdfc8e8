"""Takes the wire over, and echoes the tensors of each question as its answer (120 s)."""

{{WIRES}}

json = get("json")


def echo(head, body):
    rows = json.loads(head).get("tensors", [])
    value = ["t", 0, True] if rows else True
    return frame(json.dumps({"value": value, "tensors": rows}).encode(), body)


serve(echo)

{{EMPTY}}
