"""Right but for fill, which loops (120 s)."""

{{RIGHT}}


def fill(model, files):
    read_adapter(files)
    left = 120 * 10**7
    while left:
        left -= 1
