"""What probes are run, when, and what follows from their results. Pure.

A probe of one attempt of a container has a verdict, which changes when enough results in a row agree:

    startup:    UNKNOWN ──► SUCCESS, or FAILURE: the container is stopped   (probed until the first verdict)
    readiness:  FAILURE ◄─► SUCCESS                                         (probed while the container runs)
    liveness:   SUCCESS ──► FAILURE: the container is stopped               (probed until it fails)

Readiness and liveness are probed once the container has started, which is what its startup probe says.
When the pod ends only readiness is probed on. Verdicts are kept in memory alone: after a restart of ours
they are those that the last written status tells of, so that nothing that was ready stops being so.

Ported from pkg/kubelet/prober (worker.go, prober.go, prober_manager.go) and pkg/probe, Kubernetes 1.36.
Differs: a check that could not be done is done again a period later, not at once; readiness after a restart
is the container's own, not the pod's.
"""

from __future__ import annotations

import dataclasses
import enum
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from kci.kcilet import ports
from kci.kcilet.plan import moments, records
from kci.kube import environment, models

_LAST_PORT = 65535


class Kind(enum.Enum):
    """Named as in events."""

    STARTUP = "Startup"
    READINESS = "Readiness"
    LIVENESS = "Liveness"


class Verdict(enum.Enum):
    UNKNOWN = "unknown"
    SUCCESS = "success"
    FAILURE = "failure"


_BEGINNINGS = {
    Kind.STARTUP: Verdict.UNKNOWN,
    Kind.READINESS: Verdict.FAILURE,
    Kind.LIVENESS: Verdict.SUCCESS,
}


@dataclasses.dataclass(frozen=True)
class Key:
    """One probe of one attempt of a container."""

    container_id: ports.ContainerId
    kind: Kind


@dataclasses.dataclass(frozen=True)
class Standing:
    """What its results have come to so far."""

    verdict: Verdict
    # The last result, and how many in a row were like it.
    last: bool | None = None
    in_a_row: int = 0


Standings: TypeAlias = Mapping[Key, Standing]


@dataclasses.dataclass(frozen=True)
class Duty:
    """A probe that is to be run again and again."""

    key: Key
    probe: models.Probe
    container: models.Container
    record: ports.SeenContainer


class UnresolvableError(Exception):
    """It cannot be told from the pod what to probe."""


def follow(pod: models.Pod, seen: ports.SeenPod, standings: Standings) -> Standings:
    """The standings of the newest attempts: as they were, or begun. Earlier attempts are forgotten."""
    return {
        key: standings.get(key) or _begin(key.kind, record, records.server_status(pod, container.name))
        for container, record in _attempts(pod, seen)
        for key in (Key(record.id, kind) for kind in _probes(container))
    }


def duties(pod: models.Pod, seen: ports.SeenPod, standings: Standings, *, is_ending: bool) -> list[Duty]:
    """What is to be probed now."""
    found = []
    for container, record in _attempts(pod, seen):
        if record.phase is not records.Phase.RUNNING:
            continue
        is_started = _health(container, record, standings).started
        for kind, probe in _probes(container).items():
            key = Key(record.id, kind)
            if is_started is (kind is Kind.STARTUP) or (is_ending and kind is not Kind.READINESS):
                continue
            if standings[key].verdict is not Verdict.FAILURE or kind is Kind.READINESS:
                found.append(Duty(key, probe, container, record))
    return found


def count(standing: Standing, duty: Duty, *, succeeded: bool) -> Standing:
    """The standing after one more result. What ended the probing stays, should one have been under way."""
    if duty.key.kind is not Kind.READINESS and standing.verdict is not _BEGINNINGS[duty.key.kind]:
        return standing
    in_a_row = standing.in_a_row + 1 if standing.last is succeeded else 1
    wanted = duty.probe.success_threshold if succeeded else duty.probe.failure_threshold
    verdict = standing.verdict
    if in_a_row >= wanted:
        verdict = Verdict.SUCCESS if succeeded else Verdict.FAILURE
    return Standing(verdict, succeeded, in_a_row)


def first_at_s(duty: Duty, *, now_s: float, spread: float | None) -> float:
    """When a probe is run first. `spread` (0 to 1) is given for containers from before our start: were all of
    theirs run at once, the machine would have no time for them.
    """
    delayed_s = moments.seconds(duty.record.started_at_ns) + duty.probe.initial_delay_seconds
    spread_s = 0.0 if spread is None else spread * period_s(duty)
    return max(delayed_s, now_s + spread_s)


def period_s(duty: Duty) -> int:
    return max(1, duty.probe.period_seconds)


def with_health(pod: models.Pod | None, seen: ports.SeenPod, standings: Standings) -> ports.SeenPod:
    """What is seen, with what the probes say of it."""
    if pod is None or not standings:
        return seen
    healths = {
        record.id: _health(container, record, standings)
        for container, record in _attempts(pod, seen)
        if _probes(container)
    }
    containers = tuple(
        dataclasses.replace(one, health=healths.get(one.id, one.health)) for one in seen.containers
    )
    return dataclasses.replace(seen, containers=containers)


def grace_s(container: models.Container, failed: str) -> int | None:
    """The grace period of a probe's own, for a container that it has stopped."""
    probe = _probes(container).get(Kind(failed))
    return None if probe is None else probe.termination_grace_period_seconds


def to_check(duty: Duty, address: str) -> ports.Check:
    """What is done; raises UnresolvableError. `address` is the pod's."""
    probe, sandbox_id = duty.probe, duty.record.sandbox_id
    if probe.exec is not None:
        # As a kubelet: the values that stand in the pod itself, and those alone.
        variables = {variable.name: variable.value for variable in duty.container.env}
        command = environment.expand_arguments(probe.exec.command, variables)
        return ports.ExecCheck(duty.record.id, command)
    if probe.http_get is not None:
        get = probe.http_get
        return ports.HttpCheck(
            sandbox_id,
            scheme=get.scheme.lower() or "http",
            host=get.host or address,
            port=_to_port(get.port, duty.container),
            target=_to_target(get.path),
            headers=tuple((header.name, header.value) for header in get.http_headers),
        )
    if probe.tcp_socket is not None:
        port = _to_port(probe.tcp_socket.port, duty.container)
        return ports.TcpCheck(sandbox_id, probe.tcp_socket.host or address, port)
    if probe.grpc is not None:
        return ports.GrpcCheck(sandbox_id, address, probe.grpc.port, probe.grpc.service or "")
    raise UnresolvableError(f"the probe of container {duty.container.name} has no action")


# ---- parts ------------------------------------------------------------------------------------------


def _attempts(pod: models.Pod, seen: ports.SeenPod) -> Iterator[tuple[models.Container, ports.SeenContainer]]:
    """The newest attempts of all containers that may have probes."""
    for container in pod.spec.all_containers:
        record = records.newest_of(seen, container.name)
        if record is not None and not records.is_init(pod, container):
            yield container, record


def _probes(container: models.Container) -> dict[Kind, models.Probe]:
    found = {
        Kind.STARTUP: container.startup_probe,
        Kind.READINESS: container.readiness_probe,
        Kind.LIVENESS: container.liveness_probe,
    }
    return {kind: probe for kind, probe in found.items() if probe is not None}


def _begin(kind: Kind, record: ports.SeenContainer, known: models.ContainerStatus | None) -> Standing:
    if known is not None and known.container_id.endswith(f"://{record.id}"):
        # It was told of before: a restart of ours is no news of the container.
        was_well = known.ready if kind is Kind.READINESS else bool(known.started)
        if was_well and kind is not Kind.LIVENESS:
            return Standing(Verdict.SUCCESS)
    return Standing(_BEGINNINGS[kind])


def _health(container: models.Container, record: ports.SeenContainer, standings: Standings) -> ports.Health:
    verdicts = {
        kind: standings.get(Key(record.id, kind), Standing(_BEGINNINGS[kind])).verdict
        for kind in _probes(container)
    }
    failed = [kind for kind in (Kind.LIVENESS, Kind.STARTUP) if verdicts.get(kind) is Verdict.FAILURE]
    is_started = verdicts.get(Kind.STARTUP, Verdict.SUCCESS) is Verdict.SUCCESS
    return ports.Health(
        started=is_started,
        ready=is_started and verdicts.get(Kind.READINESS, Verdict.SUCCESS) is Verdict.SUCCESS,
        failed=failed[0].value if failed else "",
    )


def _to_port(port: int | str, container: models.Container) -> int:
    """A port's number, or the name that the container gives it."""
    if isinstance(port, str):
        named = [one.container_port for one in container.ports if one.name == port]
        if not named and not port.isdecimal():
            raise UnresolvableError(f"container {container.name} has no port named {port!r}")
        port = named[0] if named else int(port)
    if not 0 < port <= _LAST_PORT:
        raise UnresolvableError(f"invalid port number: {port}")
    return port


def _to_target(path: str) -> str:
    """Path and query of what people write there; what they did not escape is escaped."""
    try:
        parts = urllib.parse.urlsplit(path)
    except ValueError:
        parts = urllib.parse.SplitResult("", "", path, "", "")
    quoted = urllib.parse.quote(parts.path, safe="/%:@!$&'()*+,;=~")
    query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    return f"/{quoted.removeprefix('/')}" + (f"?{query}" if query else "")
