"""Creates and deletes against a service that may end at any moment, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import enum
import random
import uuid

import msgspec
import network_traffic
import service_world

from kci.client import client as clients
from kci.client import errors
from kci.contract import groups as api
from kci.kit import tasks

# What a call meets when the service dies under it.
GONE = (errors.UnreachableError, errors.TryLaterError)
_LIVE_AT_MOST = 20
# Hundreds of deletes may be under way.
_SETTLED_S = 60.0


class Stage(enum.Enum):
    """What is known of one pod's group: asked for, or acknowledged."""

    CREATING = enum.auto()
    CREATED = enum.auto()
    DELETING = enum.auto()
    DELETED = enum.auto()


@dataclasses.dataclass
class Made:
    """One pod's group as its caller knows it."""

    request: api.CreateContainerGroup
    stage: Stage = Stage.CREATING
    group_id: str = ""


class Traffic:
    """Remembers what was acknowledged through all restarts."""

    def __init__(self, client: clients.KciClient, chance: random.Random) -> None:
        self._client = client
        self.chance = chance
        self.made: list[Made] = []
        self.acknowledged: collections.Counter[Stage] = collections.Counter()
        self._epoch = 0
        self._networks = network_traffic.NetworkTraffic(client, chance)

    async def run(self, *, workers: int = 4, steps: int = 4) -> None:
        """Until everything is done, or the service is gone."""
        works = [self._work(steps) for _ in range(workers)]
        await tasks.wait_all([*works, self._make_networks()], name="traffic")

    async def _make_networks(self) -> None:
        with contextlib.suppress(*GONE):
            await self._networks.round()

    async def _work(self, steps: int) -> None:
        try:
            for _ in range(steps):
                await self._step()
        except GONE:
            return

    async def _step(self) -> None:
        live = [made for made in self.made if made.stage is Stage.CREATED]
        if live and (len(live) > _LIVE_AT_MOST or self.chance.random() < 0.45):
            await self.delete(self.chance.choice(live))
        else:
            made = Made(
                service_world.create_request(
                    pod_uid=str(uuid.UUID(int=self.chance.getrandbits(128))),
                    retain_ip=self.chance.random() < 0.5,
                )
            )
            self.made.append(made)
            await self.create(made)

    def _fence(self) -> api.Fence:
        return api.Fence(holder="cluster/node", epoch=self._epoch)

    async def create(self, made: Made) -> None:
        request = msgspec.structs.replace(made.request, fence=self._fence())
        group_id = await self._client.create_container_group(request)
        assert made.group_id in {"", group_id}, "a second group for the same pod"
        made.group_id, made.stage = group_id, Stage.CREATED
        self.acknowledged[Stage.CREATED] += 1

    async def delete(self, made: Made) -> None:
        made.stage = Stage.DELETING
        try:
            await self._client.delete_container_group(made.group_id, fence=self._fence())
        except errors.NotFoundError:
            assert not await self._client.list_container_groups(ids=(made.group_id,))
        made.stage = Stage.DELETED
        self.acknowledged[Stage.DELETED] += 1

    async def check(self) -> None:
        """After a restart: what was acknowledged is there, the rest is absent or complete. Then what was not
        acknowledged is asked for again, as its caller would, in a new epoch.
        """
        self._epoch += 1
        await self._networks.check()
        listed = {group.container_group_id: group for group in await self._client.list_container_groups()}
        addresses = [group.private_address for group in listed.values()]
        assert len(set(addresses)) == len(addresses), "an address was given twice"
        by_uid = {group.label(api.POD_UUID): group for group in listed.values()}
        assert len(by_uid) == len(listed), "two groups for one pod"
        assert by_uid.keys() <= {made.request.label_value(api.POD_UUID) for made in self.made}
        for group in listed.values():
            assert group.private_address, "a group is not complete"
            assert group.container_group_name, "a group is not complete"
        for made in self.made:
            if made.stage is Stage.CREATED:
                assert made.group_id in listed, "an acknowledged create is lost"
            elif made.stage is Stage.CREATING:
                await self.create(made)
                found = by_uid.get(made.request.label_value(api.POD_UUID))
                assert found is None or found.container_group_id == made.group_id
            elif made.stage is Stage.DELETING:
                await self.delete(made)

    async def settle(self) -> None:
        """Of a service that stays up: all is checked, and acknowledged deletes end by themselves. While many
        groups go, the pages of a list need not fit together; then it is asked for again, as any caller must.
        """
        async with asyncio.timeout(_SETTLED_S):
            while not await self._is_settled():  # noqa: ASYNC110  (the service tells nobody)
                await asyncio.sleep(0.1)
        self.made = [made for made in self.made if made.stage is not Stage.DELETED]

    async def _is_settled(self) -> bool:
        try:
            await self.check()
            listed = {group.container_group_id for group in await self._client.list_container_groups()}
        except GONE:
            return False
        kept = {made.group_id for made in self.made if made.stage is Stage.CREATED}
        assert kept <= listed, "a group is gone that nobody deleted"
        return kept == listed
