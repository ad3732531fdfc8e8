"""One report, six forms: what each platform reads, from the one Report and nothing else.

No form turns a fault of ours into a zero: a report with an `error` says so in the platform's own
way (each file here says how), without a score. Leaves out: grading, and where the text is written.
"""

from __future__ import annotations

from collections.abc import Callable

from minituner.grading.formats import github, gradescope, junit, markdown, prairielearn, whole
from minituner.grading.formats.plain import tidy
from minituner.grading.registry import Lab
from minituner.grading.report import Report
from minituner.words import one_of

Form = Callable[[Report, Lab], str]
_FORMS: dict[str, Form] = {
    "json": whole.render,
    "gradescope": gradescope.render,
    "github": github.render,
    "prairielearn": prairielearn.render,
    "junit": junit.render,
    "markdown": markdown.render,
}
FORMS = tuple(_FORMS)
# bytes: PrairieLearn drops a result of more than 1 MB and GitHub a summary of more than 1 MiB; one
# environment variable, which is how an action is handed a `result`, holds 128 KiB on Linux.
LIMITS = {"github": 120_000}
LIMIT = 1_000_000
LENGTHS = (4000, 2000, 1000, 400, 100)  # characters of a message: the longest that fits is taken


def render(report: Report, lab: Lab, form: str) -> str:
    """The report in this form, in the reader's language (words.language()).

    Raises:
        ValueError: there is no such form.
    """
    if form not in _FORMS:
        raise ValueError(one_of("--format", FORMS, form))
    for most in LENGTHS:
        text = _FORMS[form](tidy(report, most), lab)
        if len(text.encode()) <= LIMITS.get(form, LIMIT):
            break
    return text
