"""One check put to one worker, and what is to be said of it.

Leaves out: which worker, and what becomes of the checks beside it (sitting.py, behave.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable

from minituner.grading.checks.asking import Asking, Wrong
from minituner.grading.claims import claims
from minituner.grading.peer import Broken, Lost, Raised
from minituner.grading.registry import ROOT, Lab
from minituner.grading.report import Result
from minituner.words import failure, say

Check = Callable[[Asking], None]
Done = Result | Lost


def own(seed: int, name: str) -> int:
    """A check's own seed in a run with this one, whatever stands beside it."""
    return random.Random(f"{seed}:{name}").randrange(2**31)


def put(lab: Lab, name: str, check: Check, asking: Callable[[], Asking]) -> Done:
    """The check's result; Lost where its worker is.

    Args:
        asking: finds the check's worker; where that fails, the submission fails the check.
    Raises:
        Broken: ours.
    """
    try:
        check(asking())
    except Wrong as wrong:
        causes = claims(ROOT / lab.contract)[name]
        cause, read = causes[min(wrong.nth, len(causes) - 1)]
        said = failure(wrong.measured, wrong.expected, cause, read, lab.page)
        return Result("failed", said, sign=f"{wrong.nth}: {wrong.measured}")
    except Raised as error:
        return _raised(lab, error)
    except Lost as lost:
        return lost
    except Broken:
        raise
    except Exception as error:
        # The canary passed this check: what came back here is no layer's answer.
        kind = type(error).__name__
        said = say("the reply was not what was asked for ({kind})", kind=kind)
        return Result("failed", said, sign=f"reply: {kind}")
    return Result("passed")


def _raised(lab: Lab, error: Raised) -> Result:
    if "NotImplementedError" in error.kinds:
        return Result("todo", lab.todo(error.said), error.where)
    kind = error.kinds[0] if error.kinds else "?"
    return Result("failed", why(error), error.where, sign=f"{kind}: {error.said}")


def why(error: Raised | Lost) -> str:
    """In words, with the submission's own line where it is known."""
    if isinstance(error, Lost):
        return str(error)
    kind = error.kinds[0] if error.kinds else "?"
    return "\n".join(filter(None, (error.where, f"{kind}: {error.said}")))
