import asyncio
import subprocess
import sys
import time

import pytest
import time_limits

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.mark.parametrize(
    "hang",
    [
        pytest.param(lambda: time.sleep(60), id="a sleep"),
        pytest.param(lambda: asyncio.run(asyncio.sleep(60)), id="a loop"),
        pytest.param(lambda: subprocess.run(SLEEPS, check=True, timeout=60), id="a process"),
    ],
)
def test_what_hangs_fails_within_its_limit(hang):
    began_s = time.monotonic()
    with pytest.raises(pytest.fail.Exception, match="the test took longer"):  # noqa: SIM117
        with time_limits.limited(0.2, "the test"):
            hang()
    assert time.monotonic() - began_s < 30


def test_a_limit_within_a_limit_leaves_the_outer_one_as_it_was():
    with pytest.raises(pytest.fail.Exception, match="outer"), time_limits.limited(0.3, "outer"):
        with time_limits.limited(30, "inner"):
            pass
        time.sleep(60)
