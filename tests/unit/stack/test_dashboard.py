"""Grafana's dashboard: a file that loads, whose every query names what our programs really tell."""

import json

import dashboard
import promql_parser
import pytest
import reference

from kci.kcilet import instruments as kcilet_instruments
from kci.provider import instruments as node_instruments
from kci.service import instruments as service_instruments

SHOWN = json.loads(dashboard.FILE.read_text())
PANELS = [one for one in SHOWN["panels"] if one["type"] != "row"]
QUERIES = [(one["title"], target["expr"]) for one in PANELS for target in one["targets"]]
FAMILIES = {
    family.name: family
    for instruments in (node_instruments, service_instruments, kcilet_instruments)
    for family in instruments.make().registry.families
}
# What Prometheus itself adds.
OF_TARGETS = {"job", "instance"}
OF_PROCESSES = {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"}


def parse(expression):
    for variable, value in {"$__rate_interval": "5m", "$job": "a", "$instance": "b"}.items():
        expression = expression.replace(variable, value)
    parts = []
    promql_parser.walk(promql_parser.parse(expression), parts.append)
    return parts


def family_of(name):
    """The family of a series, and the labels that it has."""
    for suffix in ("_bucket", "_count", "_sum"):
        family = FAMILIES.get(name.removesuffix(suffix)) if name.endswith(suffix) else None
        if family is not None and family.kind == "histogram":
            return family, {*family.labels, *({"le"} if suffix == "_bucket" else ())}
    family = FAMILIES.get(name)
    return family, set(family.labels) if family is not None and family.kind != "histogram" else set()


def selectors(parts):
    return [one for one in parts if isinstance(one, promql_parser.VectorSelector)]


@pytest.mark.parametrize(("title", "expression"), QUERIES)
def test_a_query_names_series_and_labels_that_there_are(title, expression):
    parts = parse(expression)
    (selector,) = selectors(parts)
    family, labels = family_of(selector.name)
    assert family is not None or selector.name in OF_PROCESSES
    allowed = labels | OF_TARGETS
    assert {one.name for one in selector.matchers.matchers} <= allowed
    grouped = [one.modifier.labels for one in parts if isinstance(one, promql_parser.AggregateExpr)]
    assert {label for group in grouped for label in group} <= allowed
    calls = [one.func.name for one in parts if isinstance(one, promql_parser.Call)]
    # What only grows is read as a rate, and a quantile needs the buckets' bounds.
    grows = selector.name == "process_cpu_seconds_total" or (family is not None and family.kind != "gauge")
    assert ("rate" in calls) == grows
    assert "histogram_quantile" not in calls or all("le" in group for group in grouped)


def test_a_name_that_nobody_tells_would_be_found():
    assert family_of("kci_kcilet_pods_total")[0] is None
    assert family_of("kci_kcilet_pod_start_seconds")[1] == set()


def test_every_metric_of_ours_is_shown():
    shown = {family_of(one.name)[0] for _, expression in QUERIES for one in selectors(parse(expression))}
    assert {family.name for family in FAMILIES.values()} == {one.name for one in shown if one is not None}


@pytest.mark.parametrize(("title", "expression"), QUERIES)
def test_a_legend_names_labels_that_the_query_keeps(title, expression):
    target = next(t for one in PANELS for t in one["targets"] if t["expr"] == expression)
    named = {part.split("}}")[0] for part in target["legendFormat"].split("{{")[1:]}
    kept = [one.modifier.labels for one in parse(expression) if isinstance(one, promql_parser.AggregateExpr)]
    assert named <= ({label for group in kept for label in group} if kept else OF_TARGETS)


def test_it_is_what_the_script_makes():
    assert dashboard.dashboard() == SHOWN


def test_panels_have_a_place_and_a_number_of_their_own():
    taken = set()
    for one in SHOWN["panels"]:
        at = one["gridPos"]
        assert 0 <= at["x"] <= at["x"] + at["w"] <= dashboard.WIDTH
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        taken |= cells
    assert len({one["id"] for one in SHOWN["panels"]}) == len(SHOWN["panels"])
    assert all(one["datasource"]["uid"] == "${datasource}" for one in PANELS)


def test_the_page_of_metrics_names_the_dashboard():
    assert "deploy/grafana/kci.json" in reference.metrics()
