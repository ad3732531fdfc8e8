"""One source, two faces: the shipped stub is the reference without its marked bodies.

In the reference `# BEGIN SOLUTION A5` … `# END SOLUTION` enclose what the learner writes; in the
stub each such block is one `raise NotImplementedError("A5: …")`. Leaves out: nothing else changes,
so tests/upkeep can compare the two to the byte and `minituner reset` needs no second copy.
"""

from __future__ import annotations

import re

from minituner.grading.registry import ROOT, Lab

WIDTH = 100  # pyproject's line-length: the stub passes ruff format as it is
MARKED = re.compile(
    r"^(?P<indent> *)# BEGIN SOLUTION (?P<task>\w+)\n.*?^(?P=indent)# END SOLUTION\n",
    re.MULTILINE | re.DOTALL,
)


def strip(reference: str, lab: Lab) -> str:
    """The stub of a marked reference; titles come from the registry, in English."""

    def raised(match: re.Match[str]) -> str:
        indent, task = match["indent"], lab.task(match["task"])
        said, where = f"{task.id}: {task.title.en}; ", f"see {lab.page}"
        # The formatter's own layouts: one line, the message on its own line, or on two.
        short = f'{indent}raise NotImplementedError("{said}{where}")\n'
        body = f'{indent}    "{said}{where}"\n'
        if len(short) <= WIDTH + 1:
            return short
        if len(body) > WIDTH + 1:
            body = f'{indent}    "{said}"\n{indent}    "{where}"\n'
        return f"{indent}raise NotImplementedError(\n{body}{indent})\n"

    return MARKED.sub(raised, reference)


def stub(lab: Lab) -> str:
    """The lab's file as shipped.

    Raises:
        FileNotFoundError: the instructor took solutions/ out; git still has the stub.
    """
    return strip((ROOT / lab.reference).read_text(encoding="utf-8"), lab)
