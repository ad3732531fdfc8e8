"""Right, with a type error behind Any and cast, both of them from a star import."""

from typing import *

WRONG: int = cast(Any, "text")

{{RIGHT}}
