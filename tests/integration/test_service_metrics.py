"""What the service tells of itself while it works."""

import pytest
import service_world

from kci.client import errors
from kci.service import instruments


async def test_calls_and_work_are_counted_with_how_they_ended(tmp_path):
    measured = instruments.make()
    async with service_world.running(tmp_path, measured=measured) as world:
        group_id = await world.alice.create_container_group(service_world.create_request())
        async with service_world.watching(world.alice) as watch:
            await service_world.until(watch, lambda one: one.group and one.group.status == "Running")
        with pytest.raises(errors.NotFoundError):
            await world.bob.delete_container_group(group_id)
        text = measured.registry.text()
    for line in (
        'kci_service_call_seconds_count{action="CreateContainerGroup",code="OK"} 1.0',
        'kci_service_call_seconds_count{action="DeleteContainerGroup",code="ContainerGroupNotFound"} 1.0',
    ):
        assert line in text
    worked = 'kci_service_queue_work_seconds_count{code="OK",queue="groups"} '
    (count,) = [line.removeprefix(worked) for line in text.splitlines() if line.startswith(worked)]
    assert float(count) >= 1
