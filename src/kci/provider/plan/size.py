"""How large an instance is: what the annotations say, else what the containers ask for; by the package table.

Source: the guide's annotations; kci-reference 4.3. Limits count before requests. Containers count as the
scheduler counts them (k8s.io/component-helpers resource.PodRequests, Kubernetes 1.36): all that run together,
and at least what an init container needs beside the sidecars that were started before it. Differs: a
RuntimeClass' overhead is left out, for what runs the pod takes nothing of its instance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import msgspec

from kci.contract import packages
from kci.kube import models, quantity
from kci.provider import annotations as pod_annotations

_GIB = 2**30
BY_ANNOTATION = "the pod's annotations ask for it"


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was asked for, and what is granted for it."""

    asked: packages.Size
    grant: packages.Grant
    by_annotation: bool = False

    @property
    def is_off_table(self) -> bool:
        """Whether the annotations name a size that there is not."""
        return self.by_annotation and self.grant.size != self.asked


def choose(
    pod: models.Pod,
    wishes: pod_annotations.Wishes,
    table: packages.Table,
    *,
    sum_containers_only: bool = False,
) -> Choice:
    """The smallest size that has what the pod asks for; packages.TooLargeError if none has. The documentation
    knows no init containers: `sum_containers_only` leaves them out.
    """
    if wishes.cores is not None and wishes.memory_gb is not None:
        asked = packages.Size(wishes.cores, wishes.memory_gb)
        grant = table.grant(asked.cores, asked.gib)
        if grant.size == asked:
            grant = packages.Grant(asked, BY_ANNOTATION)
        return Choice(asked, grant, by_annotation=True)
    spec = msgspec.structs.replace(pod.spec, init_containers=()) if sum_containers_only else pod.spec
    asked = demand(spec)
    return Choice(asked, table.grant(asked.cores, asked.gib))


def demand(spec: models.PodSpec) -> packages.Size:
    """What the pod needs at its fullest moment, unless it says that for itself as a whole; 0 is nothing."""
    return _to_size(
        _most(spec, lambda resources: _asked(resources, "cpu", quantity.to_milli)),
        _most(spec, lambda resources: _asked(resources, "memory", quantity.to_bytes)),
    )


def _most(spec: models.PodSpec, asked: Callable[[models.ResourceRequirements], int]) -> int:
    """Of one resource."""
    whole = asked(spec.resources) if spec.resources else 0
    if whole:
        return whole
    most = sidecars = 0
    for container in spec.init_containers:
        most = max(most, sidecars + asked(container.resources))
        if container.is_sidecar:
            sidecars += asked(container.resources)
    return max(most, sidecars + sum(asked(container.resources) for container in spec.containers))


def _asked(resources: models.ResourceRequirements, name: str, read: Callable[[str | float], int]) -> int:
    return read(resources.limits.get(name, 0)) or read(resources.requests.get(name, 0))


def _to_size(milli_cores: int, memory_bytes: int) -> packages.Size:
    """To the API's three decimals, rounded up. Whole numbers until here, so that sums are exact."""
    return packages.Size(milli_cores / 1000, -(-memory_bytes * 1000 // _GIB) / 1000)


def limits_above(container: models.Container, granted: packages.Size) -> Iterator[tuple[str, str]]:
    """The container's limits that the instance does not have: of what, and how much."""
    limits = container.resources.limits
    has = _to_size(quantity.to_milli(limits.get("cpu", 0)), quantity.to_bytes(limits.get("memory", 0)))
    if has.cores > granted.cores:
        yield "cpu", str(limits["cpu"])
    if has.gib > granted.gib:
        yield "memory", str(limits["memory"])
