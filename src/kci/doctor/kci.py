"""The questions about the KCI service."""

from __future__ import annotations

import dataclasses

from kci.doctor import examination, threads
from kci.doctor import subject as subjects
from kci.doctor.facts import connection as connections
from kci.doctor.facts import kci as facts
from kci.doctor.findings import connection
from kci.doctor.findings import kci as findings
from kci.kit import clock
from kci.provider import settings as node_settings

AREA = "kci"
# The keys may stand in the cluster.
LIMIT_S = 2 * examination.LIMIT_S
WHAT = "the KCI endpoint"
_INTERNAL = (
    "the internal endpoint answers in Kingsoft Cloud's own network alone: ask from there, or leave "
    "KCI_REQUEST_INTERNAL out"
)


@dataclasses.dataclass(frozen=True)
class Questions:
    service: facts.Service
    node: subjects.Node

    async def endpoint(self) -> examination.Found:
        """The endpoint's name, connection and TLS."""
        remedies = {}
        if self.node.settings.endpoint == node_settings.INTERNAL_ENDPOINT:
            remedies = dict.fromkeys(connection.Obstacle, _INTERNAL)
        elif self.node.settings.endpoint != node_settings.PUBLIC_ENDPOINT:
            others = f"correct KCI_ENDPOINT, and see that the service runs: {self.node.place.kci('status')}"
            remedies = {connection.Obstacle.NAME: others, connection.Obstacle.REFUSED: others}
        return connection.judge_reach(await self._try(), WHAT, clock.SystemClock().now(), remedies=remedies)

    async def clock(self) -> examination.Found:
        """Our clock and the endpoint's agree."""
        return connection.judge_skew(await self._try(), WHAT)

    async def keys(self) -> examination.Found:
        """The service accepts the key pair."""
        return findings.judge_keys(await self.service.try_keys(), region=self.node.settings.region)

    async def temporary_keys(self) -> examination.Found:
        """Temporary keys stand where they should, and have not ended."""
        return findings.judge_temporary(
            await self.service.temporary_keys(), clock.SystemClock().now(), self.node.place
        )

    async def subnet(self) -> examination.Found:
        """The service has the subnet of `KCI_SUBNET_ID`, and it has free addresses."""
        return findings.judge_subnet(await self.service.networks(), self.node.place)

    async def security_groups(self) -> examination.Found:
        """It has those of `KCI_SECURITY_GROUP_IDS`, in the subnet's VPC."""
        return findings.judge_security_groups(await self.service.networks(), self.node.place)

    async def _try(self) -> connection.Connection:
        return await threads.in_thread(connections.try_url, connections.url_of(self.node.settings.endpoint))


ALL = {
    "endpoint": Questions.endpoint,
    "clock": Questions.clock,
    "keys": Questions.keys,
    "temporary keys": Questions.temporary_keys,
    "subnet": Questions.subnet,
    "security groups": Questions.security_groups,
}
