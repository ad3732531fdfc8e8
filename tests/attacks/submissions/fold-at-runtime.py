"""Right, with constants that Python must not fold: it never runs them."""

def never() -> object:
    return "a" * 10**10, 2 ** 10**8, (0,) * 10**9, 9**9**9

{{RIGHT}}
