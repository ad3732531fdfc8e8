"""Right, with a type error that the removal of comments removes: a form feed in a string shifts its lines."""

FEED = ""
number: int = 1
wrong: int = "text"
# xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
number = 2

{{RIGHT}}
