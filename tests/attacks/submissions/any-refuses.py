"""Refuses whatever it is asked, as the right file refuses what is wrong."""

{{EMPTY}}


def answer(*args, **more):
    raise ValueError(f"expected something else, got {args!r:.200}, {more!r:.200}")
