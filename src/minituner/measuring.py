"""What the experiments' run.py have in common: whose file, the values, and notes.md.

    main_of("01", measure, __doc__)      --impl, --json, --write, and nothing else

An experiment with more options takes `parser` and `report` apart. Leaves out: what is measured,
and the verdict; the grader measures again and compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType

from minituner.grading.registry import ROOT, Lab, lab
from minituner.standin import stand_in, standing
from minituner.words import say

Measure = Callable[[ModuleType], Mapping[str, float | str]]


def main_of(lab_id: str, measure: Measure, doc: str | None) -> int:
    """A whole run.py: parse the arguments, measure, print; the exit code."""
    return report(lab_id, parser(doc).parse_args(), measure)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every experiment has; the first line of `doc` describes it."""
    options = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    options.add_argument("--impl", default="student", help="student, reference, a file or a folder")
    options.add_argument("--json", action="store_true", help="one line of JSON, for the grader")
    options.add_argument("--write", action="store_true", help="put the values into notes.md")
    return options


def report(lab_id: str, options: argparse.Namespace, measure: Measure) -> int:
    """Measure the file that --impl names; print the values, or write them into its notes.

    Args:
        measure: gets the ★ module; a float is shown to six digits, a str as it is.

    Returns:
        0; 1 where the file cannot be measured yet; 2 where --impl names no file of the lab.
    """
    which = lab(lab_id)
    star, notes = _places(which, options.impl)
    if not star.is_file():
        print(
            say(
                "--impl: expected student, reference or a {star}, got {got}",
                star=which.star,
                got=options.impl,
            )
        )
        return 2
    try:
        measured = measure(load(which, options.impl))
    except NotImplementedError as raised:
        print(say("nothing to measure yet: {todo}", todo=which.todo(str(raised))))
        return 1
    except SyntaxError as error:
        print(f"{star}:{error.lineno}: {error.msg}")
        return 1
    values = {key: shown(value) for key, value in measured.items()}
    values[which.digest_key] = hashlib.sha256(star.read_bytes()).hexdigest()
    if options.json:
        print(json.dumps(values))
        return 0
    for key, value in values.items():
        print(f"{key:>28}  {value}")
    if options.write:
        write(notes, values)
        print(say("written into {path}", path=notes))
    else:
        print(say("copy these into {path}, or run again with --write", path=notes))
    return 0


def load(which: Lab, impl: str = "student") -> ModuleType:
    """The lab's ★ module from whoever's file `impl` names, and the other ★ files beside it."""
    stand_in(standing(impl))
    return import_module(which.module)


def _places(which: Lab, impl: str) -> tuple[Path, Path]:
    """The ★ file and the notes that belong to it."""
    if impl == "student":
        return ROOT / which.file, ROOT / which.notes
    if impl == "reference":
        return ROOT / which.reference, ROOT / "solutions" / which.notes_flat
    star = standing(impl).get(which.module, Path(impl))
    return star, star.with_name(which.notes_flat)


def shown(value: float | str) -> str:
    """A value as notes.md has it."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def write(notes: Path, values: Mapping[str, str]) -> None:
    """Put each value into the last cell of its row in notes.md; everything else stays."""
    text = notes.read_text(encoding="utf-8")
    for key, value in values.items():
        text = re.sub(rf"^(\| `{key}` \|[^|\n]*\|)[^|\n]*\|", rf"\1 {value} |", text, flags=re.M)
    notes.write_text(text, encoding="utf-8")
