"""Make deploy/grafana/kci.json, the dashboard of the three programs; with --check, say if it is another."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from typing import Any

FILE = pathlib.Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "kci.json"
# The version of the model that is written; newer Grafanas convert it when they load it.
SCHEMA = 39
WIDTH, HEIGHT = 24, 8
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Whose metrics are shown: the variables on top.
OF = 'job=~"$job",instance=~"$instance"'
RATE = "$__rate_interval"


@dataclasses.dataclass(frozen=True)
class Panel:
    """`queries` are pairs of an expression and how its lines are named."""

    title: str
    about: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    columns: int = 8


def rate(name: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({name}{{{OF}{more}}}[{RATE}]))"


def quantile(share: float, name: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', labels)})"


def quantiles(name: str, by: str, legend: str) -> tuple[tuple[str, str], ...]:
    return ((quantile(0.5, name, by), f"{legend} half"), (quantile(0.95, name, by), f"{legend} 95 %"))


def failed(name: str, by: str) -> str:
    return rate(f"{name}_count", f"{by}, code", ',code!="OK"')


def calls(title: str, name: str, by: str) -> tuple[Panel, ...]:
    """How many, how slow, and what went wrong."""
    return (
        Panel(
            f"{title}: how many",
            "Calls in a second.",
            "reqps",
            ((rate(f"{name}_count", by), f"{{{{{by}}}}}"),),
        ),
        Panel(
            f"{title}: how long",
            "19 of 20 were quicker.",
            "s",
            ((quantile(0.95, name, by), f"{{{{{by}}}}}"),),
        ),
        Panel(
            f"{title}: what failed",
            "Those that did not end with OK, in a second.",
            "reqps",
            ((failed(name, by), f"{{{{{by}}}}} {{{{code}}}}"),),
        ),
    )


def gauge(name: str) -> str:
    return f"sum by (instance) ({name}{{{OF}}})"


NODE, SERVICE, KCILET = "kci_virtual_kubelet", "kci_service", "kci_kcilet"
ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Starts of pods",
        (
            Panel(
                "From seen to ready",
                "Since the node saw a pod: until its create call went out, was answered, it ran, was ready.",
                "s",
                quantiles(f"{NODE}_pod_start_seconds", "phase", "{{phase}}"),
            ),
            Panel(
                "On the machine",
                "Since the kcilet was to run a pod: until it had its sandbox, until its first container ran.",
                "s",
                quantiles(f"{KCILET}_pod_start_seconds", "phase", "{{phase}}"),
            ),
            Panel(
                "Pods that came up",
                "Pods in a minute. `kci explain POD` says where the time of one went.",
                "short",
                ((f"60 * {rate(f'{NODE}_pod_start_seconds_count', 'phase')}", "{{phase}}"),),
            ),
        ),
    ),
    (
        "Virtual node",
        (
            Panel(
                "Pods that wait",
                "To be looked at, or looked at now.",
                "short",
                ((gauge(f"{NODE}_queue_depth"), "{{instance}}"),),
                6,
            ),
            Panel(
                "Wait for a worker",
                "Of 19 in 20 pods.",
                "s",
                ((quantile(0.95, f"{NODE}_queue_wait_seconds"), "95 %"),),
                6,
            ),
            Panel(
                "Looks at a pod",
                "In a second, by how they ended.",
                "ops",
                ((rate(f"{NODE}_queue_work_seconds_count", "queue, code"), "{{queue}} {{code}}"),),
                6,
            ),
            Panel(
                "What should not be",
                "Instances without a pod, and watches that broke, in a second.",
                "ops",
                (
                    (rate(f"{NODE}_orphans_total", "instance"), "orphans {{instance}}"),
                    (rate(f"{NODE}_watch_restarts_total", "resource"), "watch of {{resource}}"),
                ),
                6,
            ),
            *calls("Calls to KCI", f"{NODE}_kci_call_seconds", "action"),
            *calls("Calls to the API server", f"{NODE}_kube_call_seconds", "method"),
        ),
    ),
    (
        "KCI service",
        (
            Panel(
                "Groups that wait",
                "For the engine, or worked on now.",
                "short",
                ((gauge(f"{SERVICE}_queue_depth"), "{{instance}}"),),
                6,
            ),
            Panel(
                "Wait for a worker",
                "Of 19 in 20 groups.",
                "s",
                ((quantile(0.95, f"{SERVICE}_queue_wait_seconds"), "95 %"),),
                6,
            ),
            Panel(
                "Work on a group",
                "In a second, by how it ended.",
                "ops",
                ((rate(f"{SERVICE}_queue_work_seconds_count", "queue, code"), "{{queue}} {{code}}"),),
                6,
            ),
            Panel(
                "Line to the engine",
                "How often it broke, in a second.",
                "ops",
                ((rate(f"{SERVICE}_engine_restarts_total", "instance"), "{{instance}}"),),
                6,
            ),
            *calls("Calls that were answered", f"{SERVICE}_call_seconds", "action"),
        ),
    ),
    (
        "kcilet",
        (
            Panel(
                "Pods on the machine",
                "Of which something is there, or is to be.",
                "short",
                ((gauge(f"{KCILET}_pods"), "{{instance}}"),),
            ),
            Panel(
                "Checks of health",
                "Probes in a second, by what they came to.",
                "ops",
                ((rate(f"{KCILET}_probes_total", "probe, result"), "{{probe}} {{result}}"),),
            ),
            Panel(
                "What should not be",
                "Pods that no group wants, and watches that broke, in a second.",
                "ops",
                (
                    (rate(f"{KCILET}_orphans_total", "instance"), "orphans {{instance}}"),
                    (rate(f"{KCILET}_watch_restarts_total", "resource"), "watch of {{resource}}"),
                ),
            ),
            *calls("Calls to the runtime", f"{KCILET}_cri_call_seconds", "call"),
            *calls("Calls to API servers", f"{KCILET}_kube_call_seconds", "method"),
        ),
    ),
    (
        "Processes",
        (
            Panel(
                "Memory",
                "Resident.",
                "bytes",
                ((f"process_resident_memory_bytes{{{OF}}}", "{{job}} {{instance}}"),),
            ),
            Panel(
                "CPU",
                "Cores.",
                "short",
                ((rate("process_cpu_seconds_total", "job, instance"), "{{job}} {{instance}}"),),
            ),
            Panel(
                "Open files",
                "Descriptors.",
                "short",
                ((f"process_open_fds{{{OF}}}", "{{job}} {{instance}}"),),
            ),
        ),
    ),
)


def main() -> int:
    made = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if "--check" in sys.argv[1:]:
        stale = not FILE.exists() or FILE.read_text() != made
        if stale:
            print(f"{FILE.name} is not what {pathlib.Path(__file__).name} makes: run `make docs`")
        return int(stale)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(made)
    return 0


def dashboard() -> dict[str, Any]:
    return {
        "uid": "kci",
        "title": "KCI",
        "description": "The virtual node, the KCI service and the kcilet, by what they tell of themselves.",
        "tags": ["kci", "kubernetes"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_datasource(), *map(_variable, ("job", "instance"))]},
        "panels": _panels(),
    }


def _datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "refresh": 1,
        "regex": "",
        "multi": False,
        "includeAll": False,
    }


def _variable(label: str) -> dict[str, Any]:
    """All values of a label that our metrics have."""
    chosen = ',job=~"$job"' if label == "instance" else ""
    query = f'label_values({{__name__=~"({NODE}|{SERVICE}|{KCILET})_.+"{chosen}}}, {label})'
    return {
        "name": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": label},
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
    }


def _panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    top = 0
    for title, panels in ROWS:
        found.append(
            {
                "id": len(found) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
                "panels": [],
            }
        )
        top += 1
        left = 0
        for panel in panels:
            if left + panel.columns > WIDTH:
                left, top = 0, top + HEIGHT
            found.append(_panel(panel, len(found) + 1, left, top))
            left += panel.columns
        top += HEIGHT
    return found


def _panel(panel: Panel, number: int, left: int, top: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "gridPos": {"x": left, "y": top, "w": panel.columns, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 5, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend,
                "range": True,
                "editorMode": "code",
            }
            for place, (expression, legend) in enumerate(panel.queries)
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
