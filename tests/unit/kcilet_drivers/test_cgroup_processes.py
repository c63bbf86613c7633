"""Which containers have processes left, as the kernel's files tell."""

import resource

import pytest

from kci.kcilet import ports
from kci.kcilet.drivers.cgroups import pods
from kci.kube import models

UID = models.PodUid("u-1")
RUNNING, EMPTY, GONE = (ports.ContainerId(name) for name in ("running", "empty", "gone"))


@pytest.fixture
def cgroups(tmp_path):
    (tmp_path / "cgroup.controllers").touch()
    for name, content in ((RUNNING, "7\n"), (EMPTY, "")):
        folder = tmp_path / "kci" / f"pod{UID}" / name
        folder.mkdir(parents=True)
        (folder / "cgroup.procs").write_text(content)
    return pods.PodCgroups("kci", root=tmp_path)


async def test_what_has_no_processes_or_no_cgroup_is_dead(cgroups):
    assert await cgroups.list_dead(dict.fromkeys((RUNNING, EMPTY, GONE), UID)) == {EMPTY, GONE}


async def test_nothing_counts_as_dead_while_it_cannot_be_looked_at(cgroups):
    """A program without free descriptors must not take its pods for lost."""
    # The pool's thread is there before.
    assert await cgroups.list_dead({RUNNING: UID}) == set()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(ports.DriverError, match="cannot look for the processes"):
            _ = await cgroups.list_dead({RUNNING: UID})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
