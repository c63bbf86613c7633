"""The query of /containerLogs read as the kubelet reads it, what it answers when there is no log, and when
what is followed has ended. Pure.

Source: kubernetes pkg/kubelet/server/server.go getContainerLogs, pkg/apis/core/validation
ValidatePodLogOptions, pkg/kubelet/kubelet_pods.go validateContainerLogStatus (1.36.3). Differs: `stream`
may only be "All".
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from kci.kube import models, status


class BadQueryError(Exception):
    """The query cannot be read, or asks for what is not allowed; `status` is the HTTP answer's."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


_UNREADABLE = '{"message": "Unable to decode query."}'
_INVALID = '{"message": "Invalid request."}'


def parse(query: Mapping[str, str]) -> models.PodLogOptions:
    """First value of each parameter counts, as in Go."""
    tail = query.get("tail") or query.get("tailLines")
    stream = query.get("stream", "All")
    options = models.PodLogOptions(
        follow=_boolean(query, "follow"),
        previous=_boolean(query, "previous"),
        timestamps=_boolean(query, "timestamps"),
        tail_lines=None if query.get("tail") == "all" else _integer(tail),
        since_seconds=_integer(query.get("sinceSeconds")),
        since_time=_time(query.get("sinceTime")),
        limit_bytes=_integer(query.get("limitBytes")),
    )
    _check(options)
    if stream != "All":
        raise BadQueryError(
            400, f'unable to return the given log stream: "{stream}": this node has only "All"'
        )
    return options


def _check(options: models.PodLogOptions) -> None:
    wrong = (
        (options.tail_lines is not None and options.tail_lines < 0)
        or (options.limit_bytes is not None and options.limit_bytes < 1)
        or (options.since_seconds is not None and options.since_time is not None)
        or (options.since_seconds is not None and options.since_seconds < 1)
    )
    if wrong:
        raise BadQueryError(422, _INVALID)


def _boolean(query: Mapping[str, str], name: str) -> bool:
    """An empty value is true, as in apimachinery's conversion of queries."""
    return name in query and query[name] != "0" and query[name].lower() != "false"


def _integer(value: str | None) -> int | None:
    if not value:
        return None
    digits = value[1:] if value[0] in "+-" else value
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise BadQueryError(400, _UNREADABLE)
    return int(value)


def _time(value: str | None) -> str | None:
    if not value or value == "null":
        return None
    try:
        moment = datetime.datetime.fromisoformat(value)
    except ValueError as error:
        raise BadQueryError(400, _UNREADABLE) from error
    if moment.tzinfo is None:
        raise BadQueryError(400, _UNREADABLE)
    return value


def why_no_log(pod: models.Pod, container: str, *, previous: bool) -> str:
    """The kubelet's words for a container that has no log yet."""
    where = f'container "{container}" in pod "{pod.metadata.name}"'
    found = _status(pod, container)
    if previous:
        return f'previous terminated container "{container}" in pod "{pod.metadata.name}" not found'
    if found is None:
        return f"{where} is not available"
    if found.state.terminated is not None or found.last_state.terminated is not None:
        return f"{where} is terminated"
    waiting = found.state.waiting
    if waiting is None:
        return f"{where} is waiting to start - no logs yet"
    match waiting.reason:
        case "ErrImagePull":
            return f"{where} is waiting to start: image can't be pulled"
        case "ImagePullBackOff":
            return f"{where} is waiting to start: trying and failing to pull image"
        case _:
            return f"{where} is waiting to start: {waiting.reason}"


def has_ended(pod: models.Pod | None, container: str) -> bool:
    """Whether nothing more comes from what runs in the container now: a kubelet follows no log beyond a
    container's end, whatever is started after it. One whose first start is not told yet may well run.
    """
    if pod is None or pod.status.phase in status.TERMINAL_PHASES:
        return True
    found = _status(pod, container)
    if found is None or found.state.running is not None:
        return False
    return found.state.terminated is not None or found.last_state.terminated is not None


def _status(pod: models.Pod, container: str) -> models.ContainerStatus | None:
    return next((found for found in pod.status.all_containers if found.name == container), None)
