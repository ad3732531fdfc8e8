"""The instructor's commands: exam and cohort. Words and keys only; the judgement is in grading/.

Exit codes: 0 full marks (cohort: everything graded), 1 not yet, 2 broken (ours, or a wrong call).
"""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from minituner import card
from minituner.bar import bar
from minituner.grading import formats
from minituner.grading.cache import CohortError, whole
from minituner.grading.clerk import NoClerk
from minituner.grading.cohort import merge as merge_results
from minituner.grading.cohort import run_cohort
from minituner.grading.intake import NoSubmission, gather
from minituner.grading.levels import LEVELS
from minituner.grading.registry import RegistryError, lab
from minituner.spoken import LabId, Lang, broken, speak
from minituner.words import one_of, say

Require = Annotated[
    str, typer.Option(help=f"The weakest isolation to grade at: {', '.join(LEVELS)}.")
]


def exam(
    submission: Annotated[Path, typer.Argument(help="A folder, or one lora.py.")],
    lab_id: LabId = "00",
    form: Annotated[
        str, typer.Option("--format", help=f"card, or one of {', '.join(formats.FORMS)}.")
    ] = "card",
    out: Annotated[Path | None, typer.Option(help="Write it here, whole or not at all.")] = None,
    require: Require = "practice",
    seed: Annotated[int | None, typer.Option(help="Repeat the verdict with this seed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    lang: Lang = "",
) -> None:
    """Examine one submission behind walls: the verdict that cannot be forged. Linux only."""
    speak(lang)
    form = "json" if as_json else form
    if form != "card" and form not in formats.FORMS:
        broken(one_of("--format", ("card", *formats.FORMS), form))
    _check_level(require)
    if out is not None and not out.resolve().parent.is_dir():
        broken(say("--out: no such folder: {path}", path=out.resolve().parent))
    try:
        which = lab(lab_id)
        gather(which, submission)  # a wrong path is told before anything is started
    except (RegistryError, NoSubmission) as error:
        broken(str(error))
    console = card.console()
    doing = say("starting the box and grading the reference first")
    waiting = console.status(doing) if console.is_terminal else nullcontext()
    from minituner.grading.exam import Examiner, Unfit  # torch: what is above does without

    try:
        with waiting, Examiner(which, require=require, warm=False) as examiner:
            report = examiner.examine(submission, seed=seed)
    except (NoSubmission, NoClerk, Unfit) as error:
        broken(str(error))
    if form != "card":
        _write(formats.render(report, which, form), out)
    elif out is None:
        console.print(card.full(which, report))
    else:
        with console.capture() as captured:
            console.print(card.full(which, report))
        _write(captured.get(), out)
    raise typer.Exit(report.exit_code)


def _check_level(require: str) -> None:
    if require not in LEVELS:
        broken(one_of("--require", LEVELS, require))


def _write(text: str, out: Path | None) -> None:
    """To the terminal, or to a file that is never half there."""
    if out is None:
        typer.echo(text)
        return
    with whole(out) as file:
        file.write(text.encode())


def cohort(
    folder: Annotated[Path, typer.Argument(help="One submission a child: a folder or a .py.")],
    out: Annotated[Path, typer.Option(help="Where results, scores.csv and report.html go.")],
    lab_id: LabId = "00",
    jobs: Annotated[int, typer.Option(help="Processes; 0 is one a core.")] = 0,
    shard: Annotated[str, typer.Option(help="i/n: only the i-th of n parts.")] = "1/1",
    engine: Annotated[str, typer.Option(help="loky here; dask or ray: your cluster.")] = "loky",
    seed: Annotated[int | None, typer.Option(help="The same seed for every submission.")] = None,
    require: Require = "practice",
    fresh: Annotated[bool, typer.Option(help="Grade again what has a result already.")] = False,
    merge: Annotated[bool, typer.Option(help="Only write the summary of what is there.")] = False,
    lang: Lang = "",
) -> None:
    """Examine a folder of submissions; start it again after a stop, and it goes on."""
    speak(lang)
    parts = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    if parts is None:
        broken(say("--shard: expected i/n with i from 1 to n, got {got}", got=shard))
    _check_level(require)
    try:
        which = lab(lab_id)
        if merge:
            done = merge_results(which, folder, out)
        else:
            with bar(card.console()) as progress:
                done = run_cohort(
                    which,
                    folder,
                    out,
                    jobs=jobs or len(os.sched_getaffinity(0)),
                    shard=(int(parts[1]), int(parts[2])),
                    engine=engine,
                    seed=seed,
                    require=require,
                    fresh=fresh,
                    progress=progress,
                )
    except (RegistryError, CohortError) as error:
        broken(str(error))
    typer.echo(str(done))
    raise typer.Exit(done.exit_code)
