"""How large a group is: by the package table, whoever asks and however (kci-reference 4)."""

from __future__ import annotations

import dataclasses
import math

from kci.contract import errors, groups, packages


@dataclasses.dataclass(frozen=True)
class Size:
    """A limit, not a reservation."""

    cpu_milli: int
    memory_mib: int

    @property
    def cores(self) -> float:
        return packages.whole(self.cpu_milli / 1000)

    @property
    def gib(self) -> float:
        return packages.whole(round(self.memory_mib / 1024, 3))


def choose_size(request: groups.CreateContainerGroup, table: packages.Table = packages.STANDARD) -> Size:
    """The smallest for Cpu and Memory as given, else for the sum of the containers (limit, else request)."""
    specs = request.container_spec
    # Summed as whole numbers of the API's three decimals: 0.1 + 0.2 is not 0.3.
    cores = request.cpu or sum(round(1000 * (spec.limit_cpu or spec.request_cpu)) for spec in specs) / 1000
    gib = request.memory or sum(round(1000 * (spec.limit_mem or spec.request_mem)) for spec in specs) / 1000
    try:
        granted = table.grant(cores, gib).size
    except packages.TooLargeError as error:
        parameter = "Cpu" if request.cpu or request.memory else "ContainerSpec"
        raise errors.ApiError(errors.INVALID_PARAMETER_VALUE, str(error), parameter=parameter) from error
    # Never below what is granted, also where a table has fractions.
    return Size(math.ceil(round(granted.cores * 1000, 6)), math.ceil(round(granted.gib * 1024, 6)))
