"""Right, with a type error behind Any and cast under other names."""

import typing as t
from typing import cast as honest

Nothing = t.Any
WRONG: int = honest(Nothing, "text")

{{RIGHT}}
