"""What the docs say of the doctor's lines is there."""

import ast
import inspect
import pathlib
import re

import pytest

from kci.doctor import cluster, kci, machine, node, stack

AREAS = (machine, stack, cluster, node, kci)
ROOT = pathlib.Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
NAMES = {(area.AREA, name) for area in AREAS for name in area.ALL} | {(stack.AREA, stack.SUPERVISOR)}


def test_every_line_that_a_symptom_leads_to_exists_and_most_lines_are_led_to():
    text = (DOCS / "how-to" / "find-what-is-wrong.md").read_text()
    named = {tuple(found) for found in re.findall(r"`([a-z]+): ([^`]+)`", text)}
    assert named <= NAMES
    of_others = {pair for pair in NAMES - named if pair[0] != machine.AREA}
    assert of_others <= {("stack", "supervisor"), ("cluster", "rights of the node")}


def test_every_path_of_the_repository_that_the_doctor_names_is_there():
    named = {
        found
        for file in (ROOT / "src" / "kci" / "doctor").rglob("*.py")
        for one in ast.walk(ast.parse(file.read_text()))
        if isinstance(one, ast.Constant) and isinstance(one.value, str)
        for found in re.findall(r"\b(?:deploy|docs|scripts|src|tests)/[\w./-]*\w", one.value)
    }
    assert {"deploy/least-privilege/node-identity/rights.yaml", "docs/how-to/deploy-the-node.md"} <= named
    assert [one for one in sorted(named) if not (ROOT / one).exists()] == []


@pytest.mark.parametrize("area", AREAS, ids=lambda area: area.AREA)
def test_every_line_says_what_is_well(area):
    assert all((inspect.getdoc(ask) or "").endswith(".") for ask in area.ALL.values())
