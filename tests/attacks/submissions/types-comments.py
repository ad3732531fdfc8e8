"""Right, with a type error under comments that switch mypy off."""

# mypy: ignore-errors
WRONG: int = "text"  # type: ignore

{{RIGHT}}
