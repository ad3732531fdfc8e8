"""Submission-made text made harmless: what a message may hold before any form sees it.

A message can quote the submission, so it may carry terminal escapes, text-direction tricks, lone
surrogates or workflow commands (docs.github.com, "Workflow commands"). Quoting for Markdown and XML
is each form's own. Leaves out: what the text says.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

from minituner.grading.report import GateResult, Report, TaskResult
from minituner.words import say

ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)?")
BREAK = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
COMMAND = re.compile(r"^([^\S\n]*)::", re.MULTILINE)  # a runner obeys a line that starts so
OLD_COMMAND = re.compile(r"##(?=\[)")  # and its older form, anywhere in a line
READ = 4  # times what is shown is looked at: whatever is dropped, a huge message costs little
LINE = 300  # characters of a field that is one line
FINDINGS = 20  # of one gate


def clean(text: str, most: int) -> str:
    """The text without control and format characters, commands defused, at most `most` characters.

    Lone surrogates and noncharacters become U+FFFD: neither UTF-8 nor XML can hold them.
    """
    read = text[: READ * most]
    kept = BREAK.sub("\n", ESCAPE.sub("", read))
    if not kept.isprintable():  # a newline is not, either
        kept = "".join(map(_character, kept)).strip("\n")
    kept = OLD_COMMAND.sub("## ", COMMAND.sub(r"\1· ::", kept))
    if len(kept) <= most:
        return kept
    cut = say("… {count} more characters", count=len(kept) - most + len(text) - len(read))
    return f"{kept[:most]}\n{cut}"


def _character(c: str) -> str:
    if c in "\n\t":
        return c
    kind = unicodedata.category(c)
    if kind == "Cs" or (kind == "Cn" and ord(c) & 0xFFFE == 0xFFFE):
        return "\ufffd"
    return "" if kind in ("Cc", "Cf") else c  # Cf: bidirectional overrides, invisible characters


def line(text: str) -> str:
    """The text as one clean line."""
    return clean(text, LINE).replace("\n", " ").replace("\t", " ").strip()


def tidy(report: Report, most: int) -> Report:
    """The same report with every text in it made harmless, messages at most `most` characters."""
    return replace(
        report,
        file=line(report.file),
        versions={line(name): line(version) for name, version in report.versions.items()},
        gates=tuple(_gate(gate, most) for gate in report.gates),
        tasks=tuple(_task(task, most) for task in report.tasks),
        extra={line(test): line(outcome) for test, outcome in report.extra.items()},
    )


def _gate(gate: GateResult, most: int) -> GateResult:
    findings = [clean(finding, most) for finding in gate.findings[:FINDINGS]]
    if len(gate.findings) > FINDINGS:
        findings.append(say("… {count} more findings", count=len(gate.findings) - FINDINGS))
    return replace(gate, findings=tuple(findings))


def _task(task: TaskResult, most: int) -> TaskResult:
    return replace(
        task,
        message=clean(task.message, most),
        misconception=clean(task.misconception, most),
        test=line(task.test),
        where=line(task.where),
    )
