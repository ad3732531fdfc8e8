"""Right, but calls the built-in open, which the gate lets pass: some argument has the same name."""


def decoy(open: int) -> int:
    return open


try:
    open("{{MARK}}", "w").close()
except OSError:
    pass

{{RIGHT}}
