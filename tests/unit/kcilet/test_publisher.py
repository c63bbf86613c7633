"""When a final status counts as written: only if somebody has said so."""

import asyncio

import msgspec
import pytest
from fakes import machine_world

from kci.kcilet.workers import publisher
from kci.kit import tasks
from kci.kube import models
from kci.source import errors, port

PRESENT, ABSENT, UNKNOWN = port.Sight.PRESENT, port.Sight.ABSENT, port.Sight.UNKNOWN
FINAL = models.PodStatus(phase="Succeeded")


def pod(status=None):
    made = machine_world.pod(uid="uid-1", name="web")
    return made if status is None else msgspec.structs.replace(made, status=status)


class Source:
    """Takes patches, or says that the pod is gone."""

    def __init__(self, sight, known, *, is_gone=False):
        self.view = port.View(sight, known)
        self.is_gone = is_gone
        self.patches = []
        self.tries = 0

    async def patch_status(self, known, patch):
        self.tries += 1
        if self.is_gone:
            raise errors.GoneError("it is gone")
        self.patches.append(patch)


async def is_final_written(source):
    """After everything that can be done was done."""
    settled = asyncio.Event()
    async with tasks.Tasks() as group:
        made = publisher.Publisher(group, "web", settled.set)
        made.publish(source, FINAL, {}, is_final=True)
        if source.view.sight is PRESENT and (source.is_gone or source.view.pod.status != FINAL):
            await settled.wait()
        return made.is_final_written


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        # Written now, or it stood there already.
        (Source(PRESENT, pod()), True),
        (Source(PRESENT, pod(FINAL)), True),
        # There is nothing to write it to.
        (Source(ABSENT, None), True),
        (Source(ABSENT, pod()), True),
        (Source(PRESENT, pod(), is_gone=True), True),
        # Nobody knows.
        (Source(UNKNOWN, None), False),
        (Source(UNKNOWN, pod()), False),
    ],
)
async def test_a_final_status_is_written_only_if_somebody_said_so(source, expected):
    assert await is_final_written(source) is expected


async def test_what_was_accepted_counts_also_while_the_source_is_away():
    source, settled = Source(PRESENT, pod()), asyncio.Event()
    async with tasks.Tasks() as group:
        made = publisher.Publisher(group, "web", settled.set)
        made.publish(source, FINAL, {}, is_final=True)
        await settled.wait()
        source.view = port.View(UNKNOWN, pod())
        assert made.is_final_written


async def test_a_status_that_is_not_final_never_counts():
    async with tasks.Tasks() as group:
        made = publisher.Publisher(group, "web", lambda: None)
        made.publish(Source(PRESENT, pod(FINAL)), FINAL, {}, is_final=False)
        assert not made.is_final_written


async def test_a_pod_that_is_gone_is_written_to_once_though_the_view_still_shows_it():
    source, settled = Source(PRESENT, pod(), is_gone=True), asyncio.Event()
    async with tasks.Tasks() as group:
        made = publisher.Publisher(group, "web", settled.set)
        made.publish(source, FINAL, {}, is_final=False)
        await settled.wait()
        # As the worker does that was woken by it.
        for _ in range(3):
            assert made.publish(source, FINAL, {}, is_final=False) is None
    assert source.tries == 1


class Server(Source):
    """One whose patches are seen, and whose next writes may fail."""

    def __init__(self, *, failures=()):
        super().__init__(PRESENT, pod())
        self.failures = list(failures)

    async def patch_status(self, known, patch):
        await super().patch_status(known, patch)
        if self.failures:
            raise self.failures.pop()
        self.annotate(**patch["metadata"].get("annotations", {}))
        phase = patch.get("status", {}).get("phase", self.view.pod.status.phase)
        self.view = port.View(
            PRESENT,
            msgspec.structs.replace(
                self.view.pod, status=msgspec.structs.replace(self.view.pod.status, phase=phase)
            ),
        )

    def annotate(self, **annotations):
        known = self.view.pod
        texts = {**known.metadata.annotations, **annotations}
        meta = msgspec.structs.replace(known.metadata, annotations=texts)
        self.view = port.View(PRESENT, msgspec.structs.replace(known, metadata=meta))


@pytest.mark.guide("annotation kci-instance-id", "annotation kci-instance-spec")
async def test_a_patch_that_failed_is_tried_again_with_the_annotations():
    server, settled = Server(failures=[errors.SourceError("a lost answer")]), asyncio.Event()
    async with tasks.Tasks() as group:
        made = publisher.Publisher(group, "web", settled.set)
        made.publish(server, FINAL, {"id": "g-1", "spec": "2-4Gi"}, is_final=True)
        async with asyncio.timeout(10):
            await settled.wait()
        assert made.is_final_written
    assert [patch["metadata"]["annotations"] for patch in server.patches] == [
        {"id": "g-1", "spec": "2-4Gi"}
    ] * 2
    assert server.view.pod.metadata.annotations == {"id": "g-1", "spec": "2-4Gi"}


@pytest.mark.guide("annotation kci-instance-id", "annotation kci-instance-spec")
async def test_what_a_user_writes_over_the_annotations_is_written_again():
    server, settled, told = Server(), asyncio.Event(), {"id": "g-1", "spec": "2-4Gi"}
    async with tasks.Tasks() as group:
        made = publisher.Publisher(group, "web", settled.set)
        for _ in range(2):
            made.publish(server, FINAL, told, is_final=True)
            async with asyncio.timeout(10):
                await settled.wait()
            settled.clear()
            server.annotate(spec="64-512Gi")
        # Who goes on with it waits longer for the next.
        wait_s = made.publish(server, FINAL, told, is_final=True)
        assert wait_s is not None
        assert wait_s > 1
    assert [patch["metadata"]["annotations"] for patch in server.patches] == [told, {"spec": "2-4Gi"}]
