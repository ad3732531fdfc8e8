"""Right but for checkpoint, which gives the run itself in a dict that loads by pickle."""

{{RIGHT}}


class Live(dict):
    def __reduce__(self):
        return (print, ("loaded",))


right_checkpoint = checkpoint


def checkpoint(run):
    return Live(right_checkpoint(run))
