"""Does a rendered report have the shape its platform expects? The shapes are in ../schemas.

Leaves out: Markdown, whose claims are in test_formats.py.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema

SCHEMAS = Path(__file__).parents[1] / "schemas"


def schema(form: str) -> dict[str, Any]:
    name = SCHEMAS / f"{form}.json"
    path = name if form != "json" else SCHEMAS.with_name("report.schema.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if form == "json":  # the exam's levels, whether or not the schema has them yet
        levels = ["none", "practice", "standard", "authoritative"]
        found["properties"]["isolation"] = {"enum": levels}
    return found


def runners(text: str) -> dict[str, dict[str, Any]]:
    """The decoded JSON of each line, by its name."""
    pairs = [line.partition("=")[::2] for line in text.splitlines()]
    return {name: json.loads(base64.b64decode(value, validate=True)) for name, value in pairs}


def conforms(form: str, text: str) -> None:
    """Fails unless the text is what the platform expects."""
    if form == "github":
        for runner in runners(text).values():
            jsonschema.validate(runner, schema(form))
    elif form == "junit":
        shape = schema(form)
        for node in ET.fromstring(text).iter():
            must, may = set(shape[node.tag]["must"]), set(shape[node.tag]["may"])
            assert must <= set(node.attrib) <= must | may, (node.tag, node.attrib)
            assert {child.tag for child in node} <= set(shape[node.tag]["holds"]), node.tag
        suite = ET.fromstring(text)[0]
        for count, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            assert int(suite.attrib[count]) == len(list(suite.iter(tag))), count
    elif form != "markdown":
        jsonschema.validate(json.loads(text), schema(form))


def properties(xml: str) -> dict[str | None, str | None]:
    """The properties of a JUnit suite."""
    return {p.get("name"): p.get("value") for p in ET.fromstring(xml).iter("property")}
