"""Right, with a type error, and the comment that switches mypy off as a line of this docstring.

# mypy: ignore-errors
# type: ignore
"""

WRONG: int = "text"

{{RIGHT}}
