"""Every reason that our programs give stands in kube/reasons.py, as what it is."""

import ast
import pathlib

import pytest

from kci.contract import errors, remedies
from kci.kube import reasons

SOURCES = pathlib.Path(reasons.__file__).resolve().parents[1]
# Not of pods or nodes: Kubernetes' answers to API calls.
ELSEWHERE = {"kit/channels.py"}


def literals(path):
    """What is written as `reason="Word"` in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "reason":
            found = [one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)]
            yield from (word for word in found if isinstance(word, str) and word)


def known():
    tables = (reasons.NODE, reasons.REFUSALS, reasons.POD, reasons.RUN, reasons.CONDITIONS)
    return {word for table in (*tables, reasons.CONTAINERS, reasons.GROUPS) for word in table}


def test_types_and_tables_have_the_same_words():
    assert reasons.unlisted() == []


@pytest.mark.parametrize("package", ["kube", "vnode", "source", "kcilet", "service"])
def test_reasons_that_pass_through_wire_types_are_known(package):
    """What mypy cannot see: models take any text."""
    found = {
        word
        for path in sorted((SOURCES / package).rglob("*.py"))
        if path.relative_to(SOURCES).as_posix() not in ELSEWHERE
        for word in literals(path)
    }
    assert found - known() == set()


def test_events_of_pods_that_run_have_the_types_that_the_table_says():
    seen = {}
    for node in ast.walk(ast.parse((SOURCES / "kcilet/plan/events.py").read_text())):
        is_one = isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"normal", "warning"}
        if is_one and isinstance(node.args[0], ast.Constant):
            seen.setdefault(node.args[0].value, set()).add(node.func.id.title())
    assert len(seen) > 15
    for word, types in seen.items():
        assert set(reasons.RUN[word].types.split(", ")) == types, word


def test_each_error_of_the_api_has_a_remedy():
    assert set(remedies.REMEDIES) == set(errors.CATALOGUE.values())
