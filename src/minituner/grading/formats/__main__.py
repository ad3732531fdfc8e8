"""A stored report in another form: python -m minituner.grading.formats FORM REPORT.json

One grade serves a summary, annotations and an artifact. FORM is one of FORMS or `annotations`;
exit 2 when the call or the report is wrong. Leaves out: translation of stored messages.
"""

from __future__ import annotations

import sys
from pathlib import Path

from minituner.grading.formats import FORMS, LENGTHS, render
from minituner.grading.formats.github import commands
from minituner.grading.formats.plain import tidy
from minituner.grading.formats.whole import load
from minituner.grading.registry import RegistryError, lab
from minituner.words import say


def main(words: list[str]) -> int:
    if len(words) != 2:
        all_forms = ", ".join((*FORMS, "annotations"))
        print(
            say("expected FORM REPORT.json; FORM is one of {all}", all=all_forms), file=sys.stderr
        )
        return 2
    form, path = words
    try:
        report = load(Path(path).read_text(encoding="utf-8"))
        which = lab(report.lab)
        if form == "annotations":
            text = commands(tidy(report, LENGTHS[0]), which)
        else:
            text = render(report, which, form)
    except (OSError, ValueError, RegistryError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    sys.stdout.buffer.write(text.encode())  # UTF-8 whatever the locale says
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
