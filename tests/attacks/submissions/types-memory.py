"""Right, with a constant that mypy folds into 1.5 GB of text."""

import math
from typing import Final

if math.pi < 3:
    FOLDED: Final = "a" * 1_500_000_000

{{RIGHT}}
