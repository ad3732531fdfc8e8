"""What every command shares: options for lab and language, and how it says that it cannot go on.

Leaves out: the commands (cli.py for learners, cli_exam.py for instructors).
"""

from __future__ import annotations

import os
from typing import Annotated, NoReturn

import typer

from minituner.words import LANGUAGES, VARIABLE, one_of, say

LabId = Annotated[str, typer.Option("--lab", help="Which lab, for example 00.")]
Lang = Annotated[str, typer.Option("--lang", help="en or es; the default is your locale's.")]


def speak(lang: str) -> None:
    """Use this language from here on, in child processes too; "" leaves the locale's."""
    if lang and lang not in LANGUAGES:
        broken(one_of("--lang", LANGUAGES, lang))
    if lang:
        os.environ[VARIABLE] = lang


def broken(message: str) -> NoReturn:
    """One line on stderr, exit 2."""
    typer.echo(message, err=True)
    raise typer.Exit(2)


def agreed(question: str) -> bool:
    """Ask; anything but a yes in either language is a no, Ctrl-C and the end of input too."""
    try:
        answer: str = typer.prompt(f"{question} {say('[y/N]')}", default="", show_default=False)
    except typer.Abort:
        typer.echo()
        return False
    return answer.strip().lower() in ("y", "yes", "s", "si", "sí")
