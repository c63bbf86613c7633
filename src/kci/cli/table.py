"""How a stack looks on the terminal: rows and sentences from its account. Pure up to the table itself."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Sequence

from rich import table, text

from kci.stack import record, settings, typed

_STYLES = {
    record.PartState.WAITING: "dim",
    record.PartState.STARTING: "yellow",
    record.PartState.RUNNING: "green",
    record.PartState.DONE: "green",
    record.PartState.RESTARTING: "red",
    record.PartState.FAILED: "bold red",
    record.PartState.STOPPING: "yellow",
    record.PartState.STOPPED: "dim",
}
_UP = (record.PartState.RUNNING, record.PartState.DONE)


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    state: record.PartState
    took: str
    pid: str
    detail: str


def plan_rows(state: record.State) -> list[Row]:
    return [
        Row(
            name=part.name,
            state=part.state,
            took="" if part.started_in_s is None else f"{part.started_in_s:.1f} s",
            pid=str(part.process.pid) if part.process else "",
            detail=part.detail or _plan_detail(part),
        )
        for part in state.parts
    ]


def _plan_detail(part: record.PartRecord) -> str:
    if not part.restarts:
        return part.version
    return f"{part.version}, restarted {'once' if part.restarts == 1 else f'{part.restarts} times'}"


def render(rows: Sequence[Row]) -> table.Table:
    made = table.Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("PART", "STATE", "TOOK", "PID", ""):
        made.add_column(
            heading, no_wrap=heading != "", justify="right" if heading in {"TOOK", "PID"} else "left"
        )
    for row in rows:
        made.add_row(
            row.name, text.Text(row.state, _STYLES[row.state]), row.took, row.pid, text.Text(row.detail)
        )
    return made


def plan_news(before: record.State | None, now: record.State) -> list[str]:
    """What changed, a line each, for an output that is not a terminal."""
    lines = []
    for part in now.parts:
        old = before.part(part.name) if before else record.PartRecord(name=part.name)
        if part.state != old.state and part.state is not record.PartState.WAITING:
            took = f" after {part.started_in_s:.1f} s" if part.state in _UP else ""
            lines.append(f"{part.name}: {part.state}{took}{f' ({part.detail})' if part.detail else ''}")
    return lines


def plan_summary(state: record.State, *, state_dir: str) -> list[str]:
    """What a user needs to know of a stack that is ready, and what to try first."""
    place = typed.Place(settings.Settings(state_dir=state_dir, netns=state.netns))
    took = "" if state.started_in_s is None else f" after {state.started_in_s:.1f} s"
    return [
        f"The stack is ready{took}: node {state.node_name} at {state.gateway}",
        f"images      {state.images}",
        f"kubeconfig  {state.kubeconfig}",
        *_plan_warnings(state),
        "",
        "Try:",
        f"  export KUBECONFIG=$({place.kci('kubeconfig')})",
        f"  {place.inside('kubectl get nodes,pods -A -o wide')}",
        f"  {place.kci('status')}",
    ]


def plan_place(state: record.State) -> list[str]:
    """Where a stack's things are."""
    if not state.node_name:
        # It ended before it had decided anything.
        return [state.state]
    folders = sorted({posixpath.dirname(part.log_file) for part in state.parts if part.log_file})
    return [
        f"{state.state}: node {state.node_name} at {state.gateway}",
        f"images      {state.images}",
        f"kubeconfig  {state.kubeconfig}",
        f"KCI         {state.kci_endpoint}, region {state.kci_region}, account in {state.env_file}",
        *(f"logs        {folder}/<part>.log" for folder in folders),
        *_plan_warnings(state),
    ]


def _plan_warnings(state: record.State) -> list[str]:
    return [f"warning     {text}" for text in state.warnings]


def plan_farewell(state: record.State) -> list[str]:
    """What remains after an orderly end."""
    lines = ["Everything is stopped; its state is kept."]
    if state.cluster and state.node_kept:
        lines.append(
            f"The Node {state.node_name} stays in {state.cluster}, NotReady, and its pods with it: "
            f"`kubectl delete node {state.node_name}` removes them."
        )
    elif state.cluster:
        lines.append(
            f"The Node {state.node_name} is removed from {state.cluster}: that cluster will remove the pods "
            "that were bound to it, and replace those that a controller wants. Nothing else of ours is in it."
        )
    return [*lines, *_plan_warnings(state)]


def plan_failure(state: record.State) -> list[str]:
    """Why a stack failed, with the last lines of the log that tells."""
    lines = [state.failure or "the stack failed"]
    if state.failure_log:
        lines += ["its last log lines:", *(f"  {line}" for line in state.failure_log)]
    return lines
