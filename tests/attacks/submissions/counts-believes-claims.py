"""Right but for truth: whatever is published is true."""

{{RIGHT}}


def truth(claim):
    return claim.published
