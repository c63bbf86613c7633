"""How large a group is. Sizes are taken as given; the rounding table is not applied yet."""

from __future__ import annotations

import dataclasses

from kci.contract import groups

DEFAULT_CORES = 2.0
DEFAULT_GIB = 4.0


@dataclasses.dataclass(frozen=True)
class Size:
    """A limit, not a reservation."""

    cpu_milli: int
    memory_mib: int

    @property
    def cores(self) -> float:
        return whole(self.cpu_milli / 1000)

    @property
    def gib(self) -> float:
        return whole(round(self.memory_mib / 1024, 3))


def choose_size(request: groups.CreateContainerGroup) -> Size:
    """Cpu and Memory as given, else the sum over the containers (limit, else request), else 2 cores, 4 GiB.

    To the nearest MiB: three decimals of a GiB then come back as they were given.
    """
    specs = request.container_spec
    cores = request.cpu or sum(spec.limit_cpu or spec.request_cpu for spec in specs) or DEFAULT_CORES
    gib = request.memory or sum(spec.limit_mem or spec.request_mem for spec in specs) or DEFAULT_GIB
    return Size(cpu_milli=max(1, round(cores * 1000)), memory_mib=max(1, round(gib * 1024)))


def whole(number: float) -> float:
    """An int where the number is whole: Kingsoft's Go SDK cannot read `2.0` as a size."""
    return int(number) if number == int(number) else number
