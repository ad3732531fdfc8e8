"""The learner's commands: grade, watch, hint, reset, doctor. Words and keys only; grading/ judges.

Exit codes: 0 passed, 1 not yet, 2 broken (ours, or a wrong call).
"""

from __future__ import annotations

import json
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from minituner import card, cli_progress, memory
from minituner.grading import doctor as checks
from minituner.grading import practice, stub
from minituner.grading.notes import predicted
from minituner.grading.registry import ROOT, RegistryError, lab
from minituner.grading.report import TaskResult
from minituner.spoken import LabId, Lang, agreed, broken, speak
from minituner.words import needs_linux, say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Learn LoRA by writing it. Start with: minituner grade",
)

Impl = Annotated[
    str, typer.Option("--impl", help="Whose code: student, reference, a lora.py, or a folder.")
]


@app.command(epilog="Example: minituner grade --lang es")
def grade(
    lab_id: LabId = "00",
    impl: Impl = "student",
    lang: Lang = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Also write pytest's JUnit XML here.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeat the verdict with this seed.")] = None,
) -> None:
    """Grade a lab: gates, contract, types and notes; exit 0 when all is green, 1 when not yet."""
    speak(lang)
    try:
        which = lab(lab_id)
        submission = practice.find(which, impl)
    except (RegistryError, practice.NoSuchFile) as error:
        broken(str(error))
    junit = None if junit is None else junit.resolve()
    console = card.console()
    if as_json:
        report = practice.grade(which, submission, seed=seed, junit=junit)
        typer.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
    elif console.is_terminal:
        with Live(console=console, transient=True, refresh_per_second=8) as live:

            def show(tasks: tuple[TaskResult, ...], doing: str) -> None:
                live.update(card.progress(which, tasks, doing))

            report = practice.grade(which, submission, seed=seed, junit=junit, progress=show)
            live.update(Text(""))  # whatever the terminal's height, nothing of it stays
        console.print(card.full(which, report, predicted(which, submission.notes)))
    else:
        report = practice.grade(which, submission, seed=seed, junit=junit, progress=_say_once())
        console.print(card.full(which, report, predicted(which, submission.notes)))
    if impl == "student":
        memory.note_run(report)
    raise typer.Exit(report.exit_code)


def _say_once() -> practice.Progress:
    """Without a terminal: each new step on its own line, on stderr."""
    said: list[str] = []

    def show(tasks: tuple[TaskResult, ...], doing: str) -> None:
        if doing not in said:
            said.append(doing)
            points = sum(task.points for task in tasks)
            typer.echo(f"… {doing} ({points}/{sum(t.max_points for t in tasks)})", err=True)

    return show


@app.command(epilog="Example: minituner watch --lang es")
def watch(
    lab_id: LabId = "00",
    impl: Impl = "student",
    lang: Lang = "",
    poll: Annotated[
        bool | None, typer.Option("--poll/--no-poll", help="Look for saves; else by itself.")
    ] = None,
) -> None:
    """Grade at every save: the verdict in under a second, and what to do next."""
    speak(lang)
    try:
        which = lab(lab_id)
        submission = practice.find(which, impl)
    except (RegistryError, practice.NoSuchFile) as error:
        broken(str(error))
    from minituner.watch import Watch  # only this command needs what it loads

    console = Console(highlight=False)
    watching = Watch(which, submission, console, poll)
    watching.run()
    if watching.state.report is not None and console.is_terminal:
        said = predicted(which, submission.notes)
        console.print(card.full(which, watching.state.report, said))


@app.command(epilog="Example: minituner hint A5")
def hint(
    task_id: Annotated[
        str,
        typer.Argument(help="A task, for example A5; else the one that is open."),
    ] = "",
    stage: Annotated[
        int | None,
        typer.Argument(help="1 a question, 2 a pointer, 3 nearly the solution; else the next."),
    ] = None,
    lab_id: LabId = "00",
    lang: Lang = "",
) -> None:
    """Show the next hint for a task, the gentlest first."""
    speak(lang)
    try:
        which = lab(lab_id)
    except RegistryError as error:
        broken(str(error))
    known = {task.id: task for task in which.tasks}
    task_id = task_id or memory.lab_state(which.id).get("task") or which.tasks[0].id
    if task_id.upper() not in known:
        everything = ", ".join(known)
        broken(say("hint: expected one of {all}, got {got}", all=everything, got=task_id))
    task = known[task_id.upper()]
    most, shown = len(task.hints), memory.hints_shown(which.id, task.id)
    stage = min(shown + 1, most) if stage is None else stage
    if not 1 <= stage <= most:
        broken(say("hint: expected a stage from 1 to {most}, got {got}", most=most, got=stage))
    spoken = f"{which.option} --lang {lang}" if lang else which.option
    command = f"minituner hint {task.id}{spoken}"
    if stage > shown + 1:
        broken(
            say(
                "hint: expected stage {next} of {most}, which comes next, got {got}; "
                "{command} shows it",
                next=shown + 1,
                most=most,
                got=stage,
                command=command,
            )
        )
    memory.note_hint(which.id, task.id, stage)
    place = say("hint {stage} of {most}", stage=stage, most=most)
    typer.echo(f"{task.id} · {task.title} · {place}\n\n{task.hints[stage - 1]}")
    if stage < most:
        typer.echo("\n" + say("still stuck? {command}", command=command))
    elif task.kind == "code":
        last = f"minituner solution {task.id[0]}{spoken}"
        typer.echo("\n" + say("that was the last hint; {command} shows a way", command=last))


@app.command(epilog="Example: minituner reset --lab 00")
def reset(
    lab_id: LabId = "00",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    lang: Lang = "",
) -> None:
    """Put the lab's file back as shipped; your version is kept beside it with its date."""
    speak(lang)
    try:
        which = lab(lab_id)
        shipped = stub.stub(which)
    except RegistryError as error:
        broken(str(error))
    except FileNotFoundError:
        broken(
            say(
                "{path} is not here; try: git checkout {file}",
                path=which.reference,
                file=which.file,
            )
        )
    path = ROOT / which.file
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == shipped:
        typer.echo(say("{file} is as shipped already", file=which.file))
        return
    question = say("Put {file} back as shipped? Your version is kept.", file=which.file)
    if not yes and not agreed(question):
        typer.echo(say("nothing was changed"))
        raise typer.Exit(1)
    if path.is_file():
        kept = path.with_name(f"{path.name}.{datetime.now():%Y-%m-%d-%H%M%S}")
        shutil.copy2(path, kept)
        typer.echo(say("your version is kept in {path}", path=kept.relative_to(ROOT)))
    path.write_text(shipped, encoding="utf-8", newline="\n")
    typer.echo(say("{file} is as shipped again; your notes stay", file=which.file))


app.command(epilog="Example: minituner status")(cli_progress.status)
app.command(epilog="Example: minituner solution A")(cli_progress.solution)


@app.command(epilog="Example: minituner doctor")
def doctor(lang: Lang = "") -> None:
    """Check Python, torch, the tools, and that the reference is green on this machine."""
    speak(lang)
    console, healthy = card.console(), True
    with console.status(say("grading each lab's reference; this takes a minute")):
        for check in checks.examine():
            healthy = healthy and check.ok
            mark, style = card.MARKS["passed" if check.ok else "failed"]
            console.print(Text.assemble((f"{mark} ", style), check.said))
            if check.cure:
                console.print(Text(f"  {check.cure}", "dim"))
    raise typer.Exit(0 if healthy else 2)


ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True}


def _needs_linux() -> None:
    """Examine submissions behind walls: Linux only."""
    broken(needs_linux())


def _offer_the_exam() -> None:
    """exam and cohort; their modules are loaded only when one of them, or a list, is asked for."""
    if not ({"exam", "cohort", "--help"} & set(sys.argv[1:]) or len(sys.argv) == 1):
        return
    if sys.platform != "linux":
        for name in ("exam", "cohort"):
            app.command(name, context_settings=ANYTHING)(_needs_linux)
    else:
        from minituner import cli_exam

        app.command(epilog="Example: minituner exam submissions/ada --lang es")(cli_exam.exam)
        app.command(epilog="Example: minituner cohort submissions --out graded")(cli_exam.cohort)


def main() -> None:
    """The console script. Anything unforeseen is ours: exit 2, never the learner's 1."""
    try:
        _offer_the_exam()
        app()
    except Exception as error:
        typer.echo(say("This is our fault, not yours: {why}", why=repr(error)), err=True)
        sys.exit(2)
