"""How large an instance is: what the annotations say, else what the containers ask for.

Source: the guide's annotations; kci-reference 4.3. Limits count before requests, sums are rounded up to
the API's three decimals, and 2 cores and 4 GiB stand for what nobody asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from kci.contract import groups
from kci.kube import models, quantity
from kci.provider import annotations as pod_annotations

DEFAULT_CORES = 2.0
DEFAULT_MEMORY_GB = 4.0
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Size:
    cores: float
    memory_gb: float


def choose_size(pod: models.Pod, wishes: pod_annotations.Wishes) -> Size:
    if wishes.cores is not None and wishes.memory_gb is not None:
        return Size(wishes.cores, wishes.memory_gb)
    specs = to_container_specs(pod.spec.containers)
    cores = sum(_thousandths(spec.limit_cpu or spec.request_cpu) for spec in specs) / 1000
    memory_gb = sum(_thousandths(spec.limit_mem or spec.request_mem) for spec in specs) / 1000
    return Size(cores or DEFAULT_CORES, memory_gb or DEFAULT_MEMORY_GB)


def to_container_specs(containers: Iterable[models.Container]) -> tuple[groups.ContainerSpec, ...]:
    """What each container asks for, in cores and GB."""
    return tuple(
        groups.ContainerSpec(
            request_cpu=_cores(container.resources.requests),
            request_mem=_memory_gb(container.resources.requests),
            limit_cpu=_cores(container.resources.limits),
            limit_mem=_memory_gb(container.resources.limits),
        )
        for container in containers
    )


def _cores(resources: dict[str, str | int | float]) -> float:
    return quantity.to_milli(resources.get("cpu", 0)) / 1000


def _memory_gb(resources: dict[str, str | int | float]) -> float:
    return -(-quantity.to_bytes(resources.get("memory", 0)) * 1000 // _GIB) / 1000


def _thousandths(value: float) -> int:
    # Summed as whole numbers: 0.1 + 0.2 is not 0.3.
    return round(value * 1000)
