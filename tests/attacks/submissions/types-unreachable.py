"""Right, with a type error where mypy thinks that nobody comes."""

import torch

NUMBER: int = getattr(torch, "float32")
if not isinstance(NUMBER, int):
    WRONG: int = "text"

{{RIGHT}}
