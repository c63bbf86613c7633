"""What a runner needs of the place that its pods come from. One `PodSource` serves one group."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from kci.kit import secret as secrets
from kci.kube import models, reasons
from kci.link import types as link


class Sight(enum.Enum):
    """What is known of a group's pod."""

    # Not looked yet, or the source is away: nothing may be decided from this.
    UNKNOWN = "unknown"
    PRESENT = "present"
    # The source itself says that there is no such pod.
    ABSENT = "absent"


@dataclasses.dataclass(frozen=True)
class View:
    """The pod as known now; when ABSENT the last state known, if there was one."""

    sight: Sight
    pod: models.Pod | None = None


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """The API server as the group's containers reach it."""

    host: str
    port: int


class Services(Protocol):
    """Services and EndpointSlices of the pod's cluster as its node's pods see them; one for all of these."""

    @property
    def outlook(self) -> str:
        """Names it: the same after any restart, and another for each tenant, cluster, node and identity."""
        ...

    @property
    def node_name(self) -> str: ...

    @property
    def zone(self) -> str:
        """The node's; empty if it is in none."""
        ...

    @property
    def is_known(self) -> bool:
        """Whether it was listed since somebody holds it. What is known stays while the source is away."""
        ...

    @property
    def problem(self) -> str:
        """Why it cannot be listed, and what helps; empty if nothing is wrong."""
        ...

    @property
    def services(self) -> Mapping[tuple[str, str], models.Service]:
        """By namespace and name."""
        ...

    def slices(self, name: tuple[str, str]) -> Collection[models.EndpointSlice]:
        """Those of one Service."""
        ...

    def take_changed(self) -> set[tuple[str, str]]:
        """The Services of which something changed since this was asked last."""
        ...

    def hold(self, holder: object, on_change: Callable[[], None]) -> None:
        """Follow them until `release`; `on_change` is called when anything here may have changed."""
        ...

    def release(self, holder: object) -> None: ...


class PodSource(Protocol):
    """One group's pod. Methods raise errors of source/errors.py, and each waits a limited time."""

    @property
    def view(self) -> View: ...

    @property
    def host_ip(self) -> str:
        """The node's address, empty while not known."""
        ...

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def services(self) -> Services:
        """Of no use before somebody holds it."""
        ...

    async def confirm(self) -> View:
        """Ask the source directly; for when the view is not PRESENT."""
        ...

    @property
    def content(self) -> int:
        """Another number when something read by `config_map` and `secret` may read otherwise now and is
        kept, or a token is due. `on_change` tells of it. Never one that another PodSource had.
        """
        ...

    def keep(self, config_maps: Collection[str], secrets: Collection[str]) -> None:
        """These objects are needed until said otherwise, and no others: follow their changes."""
        ...

    async def config_map(self, name: str) -> models.ConfigMap | None:
        """As its watch shows it if it is kept, else at most a second old; None if there is none."""
        ...

    async def secret(self, name: str) -> models.Secret | None:
        """As `config_map`."""
        ...

    async def token(self, pod: models.Pod, *, audience: str, expiration_s: int) -> secrets.Secret:
        """A token of the pod's service account, bound to the pod: the last one until it is due, then a fresh
        one, or still the last one if no other is to be had and it has not expired.
        """
        ...

    async def patch_status(self, pod: models.Pod, patch: Mapping[str, Any]) -> None:
        """Patch `pods/status`; the view then shows the answer. GoneError if the pod is gone or another, and
        the view says so too.
        """
        ...

    def record_event(
        self, pod: models.Pod, *, container: str, kind: str, reason: reasons.Reason, message: str
    ) -> None:
        """Tell an event, some time soon; never waits and never fails."""
        ...

    def name_service(self, address: str, tell: Callable[[str], None]) -> None:
        """Find out, some time soon, whether this address is the ClusterIP of a Service, and if so hand its
        namespace and name to `tell`. Never waits and never fails; what is not to be found out is not told.
        """
        ...

    def leave(self) -> None:
        """The group is gone: nobody asks any more."""
        ...


class Sources(Protocol):
    def join(self, group: link.WantedGroup, on_change: Callable[[], None]) -> PodSource:
        """Follow a group's pod; `on_change` is called when the view may have changed. Joining again (with
        a newer kubeconfig) gives a new PodSource; leave the old one then.
        """
        ...
