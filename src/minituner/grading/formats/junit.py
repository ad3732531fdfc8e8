"""junit: a test case a task, as pytest's xunit2 family writes them. Points are suite properties.

`todo` is a failure, `blocked` is skipped. A fault of ours: <error>, one for each broken gate and
task, and no score among the properties. Leaves out: single tests (grade --junit has them) and times
of tasks, which nobody measures.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from minituner.grading.formats.view import Row, broken, rows
from minituner.grading.registry import Lab
from minituner.grading.report import Report

ELEMENT = {"failed": "failure", "todo": "failure", "blocked": "skipped", "error": "error"}


def render(report: Report, lab: Lab) -> str:
    cases = [_case(row, lab) for row in rows(report, lab)]
    cases += [
        _red("error", f"gate {gate.id}", "error", "\n".join(gate.findings), lab)
        for gate in report.gates
        if gate.outcome == "error"
    ]
    counts = {
        name: sum(case.find(element) is not None for case in cases)
        for name, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
    }
    root = ET.Element("testsuites", name="minituner")
    suite = ET.SubElement(root, "testsuite", name=f"minituner lab {lab.id}", tests=str(len(cases)))
    suite.attrib |= {name: str(count) for name, count in counts.items()}
    suite.set("time", f"{report.duration_s:.3f}")
    suite.append(_properties(report))
    suite.extend(cases)
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _properties(report: Report) -> ET.Element:
    values = {"isolation": report.isolation, "seed": str(report.seed)}
    if not broken(report):
        values |= {"score": str(report.score), "max_score": str(report.max_score)}
        values |= {f"points {task.id}": f"{task.points}/{task.max_points}" for task in report.tasks}
    found = ET.Element("properties")
    for name, value in values.items():
        ET.SubElement(found, "property", name=name, value=value)
    return found


def _case(row: Row, lab: Lab) -> ET.Element:
    if row.ok:
        return ET.Element("testcase", classname=f"minituner.lab{lab.id}", name=row.name)
    return _red(ELEMENT[row.task.outcome], row.name, row.task.outcome, row.text, lab)


def _red(element: str, name: str, kind: str, text: str, lab: Lab) -> ET.Element:
    case = ET.Element("testcase", classname=f"minituner.lab{lab.id}", name=name)
    found = ET.SubElement(case, element, type=kind, message=text.partition("\n")[0])
    found.text = text
    return case
