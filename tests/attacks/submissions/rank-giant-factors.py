"""Right but for best_factors: a column and a row of 2**36 values in eight bytes each."""

{{RIGHT}}


right_factors = best_factors


def best_factors(delta, r, scaling=1.0):
    right_factors(delta, r, scaling)
    one = torch.zeros((), dtype=torch.float64)
    return one.expand(r, 2**36), one.expand(2**36, r)
