"""What the docs say of the doctor's lines is there."""

import inspect
import pathlib
import re

import pytest

from kci.doctor import cluster, kci, machine, node, stack

AREAS = (machine, stack, cluster, node, kci)
DOCS = pathlib.Path(__file__).resolve().parents[3] / "docs"
NAMES = {(area.AREA, name) for area in AREAS for name in area.ALL} | {(stack.AREA, stack.SUPERVISOR)}


def test_every_line_that_a_symptom_leads_to_exists_and_most_lines_are_led_to():
    text = (DOCS / "how-to" / "find-what-is-wrong.md").read_text()
    named = {tuple(found) for found in re.findall(r"`([a-z]+): ([^`]+)`", text)}
    assert named <= NAMES
    of_others = {pair for pair in NAMES - named if pair[0] != machine.AREA}
    assert of_others <= {("stack", "supervisor"), ("cluster", "rights of the node")}


@pytest.mark.parametrize("area", AREAS, ids=lambda area: area.AREA)
def test_every_line_says_what_is_well(area):
    assert all((inspect.getdoc(ask) or "").endswith(".") for ask in area.ALL.values())
