"""The downward API: what a pod may know of itself, in its environment and in its volumes. Pure.

Ported from Kubernetes v1.36.3 pkg/fieldpath/fieldpath.go, pkg/api/v1/resource/helpers.go,
pkg/kubelet/kubelet_pods.go (podFieldSelectorRuntimeValue) and kubelet_resources.go. Differs: where a
container has no limit, the size of its group stands for the node's allocatable.
"""

from __future__ import annotations

import fractions
import math
from collections.abc import Mapping, Sequence

from kci.kube import errors, models, quantity

Quantities = Mapping[str, str | int | float]
_DEFAULTED_LIMITS = ("cpu", "memory", "ephemeral-storage")


def metadata_field(pod: models.Pod, path: str) -> str:
    """A field that a volume may show: these can change while the pod runs."""
    name, key = _split(path)
    maps = {"metadata.labels": pod.metadata.labels, "metadata.annotations": pod.metadata.annotations}
    if key is not None:
        if name not in maps:
            raise errors.ConfigError(f'fieldPath "{path}" does not support subscript')
        return maps[name].get(key, "")
    if name in maps:
        return format_map(maps[name])
    plain = {
        "metadata.name": pod.metadata.name,
        "metadata.namespace": pod.metadata.namespace,
        "metadata.uid": pod.metadata.uid,
    }
    if name not in plain:
        raise errors.ConfigError(f"unsupported fieldPath: {path}")
    return plain[name]


def pod_field(
    pod: models.Pod, path: str, *, pod_ips: Sequence[str] = (), host_ips: Sequence[str] = ()
) -> str:
    """A field that an environment variable may show: the volume's ones and what is known at the start."""
    at_start = {
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
        "status.podIP": pod_ips[0] if pod_ips else "",
        "status.podIPs": ",".join(pod_ips),
        "status.hostIP": host_ips[0] if host_ips else "",
        "status.hostIPs": ",".join(host_ips),
    }
    return at_start[path] if path in at_start else metadata_field(pod, path)


def resource_field(
    selector: models.ResourceFieldSelector,
    pod: models.Pod,
    container: models.Container | None = None,
    *,
    allocatable: Quantities | None = None,
) -> str:
    """A container's request or limit, divided and rounded up. Without a limit of its own, the pod's limit
    counts, else `allocatable`; a missing request is 0. `container` is whose environment asks.
    """
    if selector.container_name or container is None:
        container = _container(pod, selector.container_name)
    kind, _, name = selector.resource.partition(".")
    if kind not in {"limits", "requests"} or not (name in _DEFAULTED_LIMITS or name.startswith("hugepages-")):
        raise errors.ConfigError(f"unsupported container resource : {selector.resource}")
    known = _limits(pod, container, allocatable or {}) if kind == "limits" else container.resources.requests
    if name == "cpu":
        return _divided(quantity.to_milli(known.get(name, 0)), quantity.to_milli(_divisor(selector)))
    return _divided(quantity.to_bytes(known.get(name, 0)), quantity.to_bytes(_divisor(selector)))


def format_map(values: Mapping[str, str]) -> str:
    """Lines of key="value", sorted by key, with the value quoted as Go does."""
    return "\n".join(f"{key}={go_quote(values[key])}" for key in sorted(values))


def go_quote(text: str) -> str:
    """strconv.Quote."""
    return '"' + "".join(_quoted(character) for character in text) + '"'


_ESCAPES = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
    "\\": r"\\",
    '"': r"\"",
}


def _quoted(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _split(path: str) -> tuple[str, str | None]:
    """`metadata.labels['a']` is metadata.labels and a."""
    name, opener, rest = path.partition("['")
    if not name or not opener or not rest.endswith("']"):
        return path, None
    return name, rest[:-2]


def _container(pod: models.Pod, name: str) -> models.Container:
    for container in pod.spec.all_containers:
        if container.name == name:
            return container
    raise errors.ConfigError(f"container {name} not found")


def _limits(pod: models.Pod, container: models.Container, allocatable: Quantities) -> Quantities:
    pod_limits = pod.spec.resources.limits if pod.spec.resources else {}
    limits = dict(container.resources.limits)
    for name in _DEFAULTED_LIMITS:
        for source in (pod_limits, allocatable):
            if quantity.parse(limits.get(name, 0)) == 0 and name in source:
                limits[name] = source[name]
    return limits


def _divisor(selector: models.ResourceFieldSelector) -> str | int:
    divisor = selector.divisor
    return divisor if divisor is not None and quantity.parse(divisor) != 0 else 1


def _divided(amount: int, divisor: int) -> str:
    return str(math.ceil(fractions.Fraction(amount, divisor)))
