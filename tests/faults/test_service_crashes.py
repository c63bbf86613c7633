"""The service killed hundreds of times, at every crash point and at random moments."""

import pytest
import service_crashes

pytestmark = [pytest.mark.faults]


@pytest.mark.requirement("R03")
async def test_what_was_acknowledged_survives_every_kill(tmp_path, runs):
    kills = runs.scale(quick=60, faults=250, release=1000)
    hit = await service_crashes.survive(tmp_path, runs.random(), kills)
    # A short run has not the time for all of them.
    missed = [name for name, times in hit.items() if name and not times and kills >= 2 * len(hit)]
    assert not missed, f"never killed at {missed}"
