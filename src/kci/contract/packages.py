"""Sizes of an instance: the package table, and what is granted for what is asked. Pure.

Both sides choose by it, so that a pod's size is known before anybody is asked. The table is data: the default
is `STANDARD`, a file may replace it, and its form is the answer of DescribeKciPackages, which is the cloud's
own list. Source of the rules: kci-reference 4.3.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import msgspec

from kci.contract import groups
from kci.kit import errors

DEFAULT_CORES, DEFAULT_GIB = 2.0, 4.0


class TooLargeError(ValueError):
    """No package is that large; a sentence that names the largest."""


class Package(msgspec.Struct, frozen=True, rename="pascal"):
    """One number of cores, and the memories (GiB) that it comes with."""

    cpu: float
    mem: tuple[float, ...]


class PackageList(groups.Answer, frozen=True, kw_only=True):
    """The answer of DescribeKciPackages."""

    packages: tuple[Package, ...] = ()


class DescribeKciPackages(groups.Parameters, frozen=True, kw_only=True):
    """All filters are optional; here every zone and charge type has the same packages."""

    charge_type: str = ""
    availability_zone: str = ""
    kci_type: str = ""


@dataclasses.dataclass(frozen=True, order=True)
class Size:
    """What an instance has: a limit, not a reservation. Memory counts in GiB, as the API's GB do."""

    cores: float
    gib: float

    def __str__(self) -> str:
        return f"{self.cores:g} cores and {self.gib:g} GiB"


@dataclasses.dataclass(frozen=True)
class Grant:
    """The size, and the rule by which it was chosen, in words."""

    size: Size
    rule: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Packages in the order of their cores, each with its memories in order; at least one."""

    packages: tuple[Package, ...]

    @property
    def sizes(self) -> Iterator[Size]:
        return (Size(package.cpu, gib) for package in self.packages for gib in package.mem)

    def has(self, size: Size) -> bool:
        return size in self._known

    def grant(self, cores: float, gib: float) -> Grant:
        """The smallest size for what is asked of cores and memory; 0 is nothing asked. TooLargeError."""
        if not cores and not gib:
            return Grant(self._default(), "nothing is asked for: the default")
        self._check(cores, gib)
        if not gib:
            package = self._with_cores(cores)
            return Grant(
                Size(package.cpu, package.mem[0]),
                f"no memory is asked for: the smallest with {cores:g} cores or more",
            )
        if not cores:
            rule = f"no cores are asked for: the smallest with {gib:g} GiB or more"
            return Grant(self._with_memory(0, gib), rule)
        return self._for_both(cores, gib)

    def _default(self) -> Size:
        """Of a table without that size the next, or else its largest."""
        try:
            self._check(DEFAULT_CORES, DEFAULT_GIB)
            return self._for_both(DEFAULT_CORES, DEFAULT_GIB).size
        except TooLargeError:
            return max(self.sizes)

    def _for_both(self, cores: float, gib: float) -> Grant:
        package = self._with_cores(cores)
        fitting = next((one for one in package.mem if one >= gib), None)
        if fitting is None:
            size = self._with_memory(cores, gib)
            most = f"{package.cpu:g} cores come with {package.mem[-1]:g} GiB at most"
            return Grant(size, f"{most}: the smallest with {gib:g} GiB or more")
        size = Size(package.cpu, fitting)
        if size == Size(cores, gib):
            return Grant(size, "as asked for")
        if gib < package.mem[0]:
            return Grant(size, f"{package.cpu:g} cores come with {package.mem[0]:g} GiB at least")
        return Grant(size, f"the smallest with {cores:g} cores and {gib:g} GiB or more")

    def _with_cores(self, cores: float) -> Package:
        return next(package for package in self.packages if package.cpu >= cores)

    def _with_memory(self, cores: float, gib: float) -> Size:
        """The smallest memory first, then the fewest cores that it comes with."""
        fitting = [size for size in self.sizes if size.cores >= cores and size.gib >= gib]
        if not fitting:
            raise TooLargeError(f"no size has {Size(cores, gib)} or more together: {self._largest()}")
        return min(fitting, key=lambda size: (size.gib, size.cores))

    def _check(self, cores: float, gib: float) -> None:
        if cores > self.packages[-1].cpu:
            raise TooLargeError(f"no size has {cores:g} cores or more: {self._largest()}")
        if gib > max(package.mem[-1] for package in self.packages):
            raise TooLargeError(f"no size has {gib:g} GiB or more: {self._largest()}")

    def _largest(self) -> str:
        return f"the largest is {max(self.sizes)}"

    @functools.cached_property
    def _known(self) -> frozenset[Size]:
        return frozenset(self.sizes)


def to_table(packages: Iterable[Package]) -> Table:
    """In order, whatever the order was; ValueError in words if nothing can be chosen from it."""
    memories: dict[float, set[float]] = {}
    for package in packages:
        memories.setdefault(package.cpu, set()).update(package.mem)
    for cores, several in memories.items():
        if cores <= 0 or not several or min(several) <= 0:
            raise ValueError(f"the package with Cpu {cores:g} needs a Cpu and a list Mem of numbers above 0")
    if not memories:
        raise ValueError("there is no package in it")
    return Table(
        tuple(
            Package(whole(cores), tuple(whole(gib) for gib in sorted(memories[cores])))
            for cores in sorted(memories)
        )
    )


def whole(number: float) -> float:
    """An int where the number is whole: Kingsoft's Go SDK cannot read `2.0` as a size."""
    return int(number) if number == int(number) else number


def read_table(text: bytes, name: str) -> Table:
    """A table as DescribeKciPackages answers it, in JSON. UserError naming the file."""
    try:
        return to_table(msgspec.json.decode(text, type=PackageList).packages)
    except (msgspec.MsgspecError, ValueError) as error:
        raise errors.UserError(
            f"cannot use the package table {name}: {error}; write it as DescribeKciPackages answers, "
            '{"Packages": [{"Cpu": 2, "Mem": [2, 4, 8]}]}'
        ) from error


# Assumed where the documentation is silent (kci-reference 4.2).
STANDARD = to_table(
    (
        Package(1, (1, 2, 4)),
        Package(2, (2, 4, 8, 16)),
        Package(4, (4, 8, 16, 32)),
        Package(8, (8, 16, 32, 64)),
        Package(16, (16, 32, 64, 128)),
        Package(32, (64, 128, 256)),
        Package(64, (128, 256, 512)),
    )
)
