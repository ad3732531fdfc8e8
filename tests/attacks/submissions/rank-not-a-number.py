"""Right but for singular_spectrum: NaN, which no comparison calls too far."""

{{RIGHT}}


right_spectrum = singular_spectrum


def singular_spectrum(delta):
    return right_spectrum(delta) * float("nan")
