"""A report as people read it in a terminal: losses before and after, sizes, samples.

Leaves out: the numbers themselves; story.py has them.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from story import Report, perplexity

from minituner.curve import spark
from minituner.words import say


def shown(console: Console, report: Report, folder: Path) -> None:
    """Two tables, the curve, and the samples."""
    console.print(say("loss {curve} {last}", curve=spark(report["losses"]), last=ended(report)))
    table = Table(say("loss a token (perplexity)"), say("before"), say("after"))
    for key, label in (("held_out", say("held-out text")), ("control", say("modern prose"))):
        pair = [report[side][key] for side in ("before", "after")]
        table.add_row(label, *(f"{loss:.3f} ({perplexity(loss):.1f})" for loss in pair))
    console.print(table)
    share = report["trainable"] / report["parameters"]
    sizes = Table(show_header=False)
    sizes.add_row(say("trainable"), f"{grouped(report['trainable'])} ({share:.2%})")
    sizes.add_row(say("adapter"), f"{report['adapter_bytes'] / 1e6:.1f} MB")
    sizes.add_row(say("model"), f"{report['model_bytes'] / 1e6:.1f} MB")
    sizes.add_row(say("training"), f"{report['seconds']:.0f} s")
    if report["peak_bytes"]:
        sizes.add_row(say("most memory"), f"{report['peak_bytes'] / 1e9:.2f} GB")
    console.print(sizes)
    for nth in range(len(report["prompts"])):
        for side, label in (("before", say("before")), ("after", say("after"))):
            console.print(f"[bold]{label}[/bold]")
            console.print(report[side]["samples"][nth], markup=False, highlight=False)
    console.print(say("written into {path}", path=folder), soft_wrap=True)


def ended(report: Report) -> str:
    return f"{report['losses'][-1]:.3f}"


def grouped(count: int) -> str:
    return f"{count:,}".replace(",", " ")
