"""Right, with a type error in the branch that only runs, beside TYPE_CHECKING."""

import typing

if typing.TYPE_CHECKING:
    WRONG: int = 1
else:
    WRONG: int = "text"

{{RIGHT}}
