"""An explanation for people, and as plain values for programs. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

from kci.cli.explanation import facts, reasons, start

_BAR = 30


def lines(known: facts.Facts, findings: list[reasons.Finding], begun: start.Start | None) -> Iterator[str]:
    yield state(known)
    for finding in findings:
        yield ""
        yield f"{finding.reason}: {finding.message}"
        if finding.remedy:
            yield f"  What to do: {finding.remedy}."
        if finding.log:
            yield f"  The last lines of {finding.container}'s log:"
            yield from (f"    {line}" for line in finding.log)
    if begun is not None:
        yield ""
        yield from _waterfall(begun)
    if known.unknown:
        yield ""
        yield from (f"Not known: {text}" for text in known.unknown)


def state(known: facts.Facts) -> str:
    pod = known.pod
    name = f"{pod.metadata.namespace}/{pod.metadata.name}"
    where = f" on {pod.spec.node_name}" if pod.spec.node_name else ""
    group = f", container group {known.group.container_group_id}" if known.group is not None else ""
    return f"Pod {name}{where}{group}: {_phase(known)}"


def _phase(known: facts.Facts) -> str:
    pod = known.pod
    if pod.metadata.deletion_timestamp is not None:
        return "is being deleted"
    phase = pod.status.phase or "Pending"
    if phase == "Running":
        return "runs and is ready" if facts.is_ready(pod) else "runs, and is not ready"
    since_s = facts.seconds(pod.metadata.creation_timestamp)
    if phase == "Pending" and since_s is not None:
        return f"is Pending for {_duration(known.now.timestamp() - since_s)}"
    return {"Succeeded": "has done its work", "Failed": "has failed"}.get(phase, f"is {phase}")


def _waterfall(begun: start.Start) -> Iterator[str]:
    yield f"Its start took {begun.total_ms} ms:"
    width = max((len(one.phase) for one in begun.phases), default=0)
    for one in begun.phases:
        indent = round(_BAR * one.after_ms / max(begun.total_ms, 1))
        length = max(1, round(_BAR * one.share))
        bar = (" " * min(indent, _BAR - 1) + "█" * length)[:_BAR]
        numbers = f"{one.took_ms:>7} ms  {one.share:>4.0%}"
        yield f"  {one.phase:<{width}}  {numbers}  {bar:<{_BAR}}  {one.about}".rstrip()
    yield from (f"  ({text})" for text in begun.notes)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=max(0, int(seconds))))


def to_builtins(
    known: facts.Facts, findings: list[reasons.Finding], begun: start.Start | None
) -> dict[str, Any]:
    pod = known.pod
    return {
        "namespace": pod.metadata.namespace,
        "pod": pod.metadata.name,
        "uid": pod.metadata.uid,
        "node": pod.spec.node_name,
        "containerGroup": known.group.container_group_id if known.group is not None else None,
        "phase": pod.status.phase or "Pending",
        "ready": facts.is_ready(pod),
        "findings": [
            {
                "reason": one.reason,
                "container": one.container,
                "message": one.message,
                "remedy": one.remedy,
                "log": list(one.log),
            }
            for one in findings
        ],
        "start": begun
        and {
            "totalMs": begun.total_ms,
            "phases": [
                {
                    "phase": one.phase,
                    "afterMs": one.after_ms,
                    "tookMs": one.took_ms,
                    "share": round(one.share, 4),
                    "about": one.about,
                }
                for one in begun.phases
            ],
            "notes": list(begun.notes),
        },
        "unknown": list(known.unknown),
    }
