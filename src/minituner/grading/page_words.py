"""The sentences of report.html in the reader's language, by the names the template uses.

Leaves out: what comes from results (messages are in the language they were graded in).
"""

from __future__ import annotations

from minituner.words import say


def words() -> dict[str, str]:
    """What the template says; fields in braces are filled in by the template or its script."""
    return _headline() | _tables() | _controls()


def _headline() -> dict[str, str]:
    return {
        "title": say("Lab {lab}: results"),
        "skip": say("Skip to the submissions"),
        "graded": say("graded"),
        "errors": say("errors of ours"),
        "missing": say("not graded yet"),
        "mean": say("mean score"),
        "median": say("median score"),
        "middle": say("middle half"),
        "full": say("full marks"),
        "of": say("{some} of {all}"),
        "isolation": say("Isolation reached"),
        "ours": say(
            "An error of ours is no score: run the same command again, and only those are graded "
            "again."
        ),
    }


def _tables() -> dict[str, str]:
    return {
        "distribution": say("Distribution of scores"),
        "as_table": say("the same as a table"),
        "points": say("points"),
        "submissions": say("submissions"),
        "tasks": say("Tasks by pass rate"),
        "least": say("The least passed first."),
        "task": say("task"),
        "rate": say("pass rate"),
        "passed": say("passed"),
        "failed": say("failed"),
        "todo": say("todo"),
        "blocked": say("blocked"),
        "advice": say("advice"),
        "misconceptions": say("Most common misconceptions"),
        "tests": say("Most common failing tests"),
        "none_recognised": say("No misconception was recognised; these tests fail first."),
        "none": say("Nothing failed."),
        "misconception": say("misconception"),
        "test": say("test"),
    }


def _controls() -> dict[str, str]:
    return {
        "rows": say("Submissions"),
        "submission": say("submission"),
        "score": say("score"),
        "tasks_passed": say("tasks passed"),
        "findings": say("findings"),
        "text": say("Text in name or findings"),
        "which_task": say("Task"),
        "any_task": say("any"),
        "outcome": say("Outcome"),
        "any": say("any"),
        "not_passed": say("not passed"),
        "errors_are": say("Errors of ours"),
        "errors_all": say("shown too"),
        "errors_no": say("left out"),
        "errors_only": say("alone"),
        "size": say("Rows a page"),
        "all": say("all"),
        "reset": say("Clear the filters"),
        "open": say("Open all findings"),
        "close": say("Close all findings"),
        "previous": say("Previous page"),
        "next": say("Next page"),
        "count": say("{first} to {last} of {found} shown; {all} in all"),
        "nothing": say("No submission matches; {all} in all"),
        "seed": say("seed"),
        "no_findings": say("nothing to say"),
        "our_error": say("our error"),
        "sort": say("Press a column's name to sort by it."),
    }
