"""What the kernel's files say of usage, for cgroup v1 and v2: contents in, figures out."""

import pytest

from kci.kcilet import ports
from kci.kcilet.drivers.stats import accounts, driver
from kci.link import types as link

V1_STAT = """\
cache 12288
rss 4096
pgfault 1
inactive_file 1
hierarchical_memory_limit 4294967296
total_cache 90112
total_rss 40960
total_pgfault 170
total_pgmajfault 3
total_inactive_anon 0
total_inactive_file 8192
total_active_file 81920
"""
V2_STAT = """\
anon 40960
file 90112
kernel 32768
inactive_anon 0
inactive_file 8192
active_file 81920
pgfault 170
pgmajfault 3
"""
V2_CPU = """\
usage_usec 1812
user_usec 1000
system_usec 812
nr_periods 0
"""
LINKS = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  123456    1000    0    0    0     0          0         0   123456    1000    0    0    0     0       0          0
kv0123456789a:    100       1    2    0    0     0          0         0      300       4    5    0    0     0       0          0
"""  # noqa: E501
USED = link.Usage(
    time_ns=9,
    cpu_core_ns=1_812_000,
    memory_bytes=131072,
    working_set_bytes=122880,
    rss_bytes=40960,
    page_faults=170,
    major_page_faults=3,
    memory_limit_bytes=64 << 20,
    processes=2,
)


def contents(**changes):
    found = {
        "time_ns": 9, "cpu": "1812000\n", "memory": "131072\n", "memory_limit": f"{64 << 20}\n",
        "memory_stat": V1_STAT, "processes": 2,
    }  # fmt: skip
    return accounts.Contents(**(found | changes))


def test_both_versions_come_to_the_same():
    assert accounts.to_usage(contents(), is_v2=False) == USED
    assert accounts.to_usage(contents(cpu=V2_CPU, memory_stat=V2_STAT), is_v2=True) == USED


@pytest.mark.parametrize(("limit", "is_v2"), [("9223372036854771712\n", False), ("max\n", True)])
def test_no_limit_is_0(limit, is_v2):
    changes = {"cpu": V2_CPU, "memory_stat": V2_STAT} if is_v2 else {}
    assert accounts.to_usage(contents(memory_limit=limit, **changes), is_v2=is_v2).memory_limit_bytes == 0


def test_a_working_set_is_never_below_zero():
    # The two are read one after the other.
    assert accounts.to_usage(contents(memory="4096\n"), is_v2=False).working_set_bytes == 0


def test_what_comes_in_at_the_machines_end_is_what_the_pod_sent():
    traffic = accounts.to_traffic(LINKS)
    assert traffic["kv0123456789a"] == link.Traffic(
        received_bytes=300, received_errors=5, sent_bytes=100, sent_errors=2
    )
    assert set(traffic) == {"lo", "kv0123456789a"}


class Tree:
    """Cgroup file systems of either version, as plain files."""

    def __init__(self, root, *, is_v2):
        self.root, self.is_v2 = root / "cgroup", is_v2
        self.links = root / "dev"
        self.links.write_text(LINKS)
        self.root.mkdir()
        if is_v2:
            (self.root / "cgroup.controllers").write_text("cpu memory pids\n")
        self.stats = driver.MachineStats(
            cgroup_of=lambda uid: f"kci/pod{uid}",
            link_of=lambda uid: "kv0123456789a" if uid == "u" else "none",
            root=self.root,
            links=self.links,
        )

    def add(self, path, *, processes=""):
        files = accounts.V2 if self.is_v2 else accounts.V1
        for (controller, name), text in {
            files.cpu: V2_CPU if self.is_v2 else "1812000\n",
            files.memory: "131072\n",
            files.memory_limit: f"{64 << 20}\n",
            files.memory_stat: V2_STAT if self.is_v2 else V1_STAT,
            files.processes: processes,
        }.items():
            folder = self.root / controller / path
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


@pytest.fixture(params=["v1", "v2"])
def tree(request, tmp_path):
    return Tree(tmp_path, is_v2=request.param == "v2")


async def test_a_pod_and_its_containers_are_read_and_what_is_gone_is_left_out(tree):
    tree.add("kci/podu")
    tree.add("kci/podu/sandbox", processes="1\n")
    tree.add("kci/podu/app", processes="2\n3\n")
    found = await tree.stats.read_usage({"u": ("app", "gone"), "absent": ("other",)})
    assert set(found) == {"u"}
    assert found["u"].usage.processes == 3
    assert found["u"].traffic == link.Traffic(
        received_bytes=300, received_errors=5, sent_bytes=100, sent_errors=2
    )
    (app,) = found["u"].containers.values()
    assert (app.processes, app.cpu_core_ns, app.working_set_bytes) == (2, 1_812_000, 122880)


async def test_files_that_say_something_else_are_no_usage(tree):
    tree.add("kci/podu")
    files = accounts.V2 if tree.is_v2 else accounts.V1
    (tree.root / files.memory[0] / "kci/podu" / files.memory[1]).write_text("much\n")
    with pytest.raises(ports.DriverError, match="cannot read what pods use"):
        await tree.stats.read_usage({"u": ()})
