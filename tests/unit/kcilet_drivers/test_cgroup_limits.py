"""A pod's limits as the kernel's files."""

from kci.kcilet.drivers.cgroups import limits


def test_the_granted_size_is_written_for_both_versions():
    granted = limits.Limits(cpu_milli=1500, memory_mib=64, pids=1024)
    v1 = limits.to_v1_files(granted)
    assert v1["cpu"] == {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000", "cpu.shares": "1536"}
    assert v1["memory"] == {"memory.limit_in_bytes": str(64 << 20)}
    assert v1["pids"] == {"pids.max": "1024"}
    v2 = limits.to_v2_files(granted)
    assert (v2["cpu.max"], v2["memory.max"], v2["pids.max"]) == ("150000 100000", str(64 << 20), "1024")
    assert 1 <= int(v2["cpu.weight"]) <= 10_000


def test_nothing_granted_is_no_limit():
    none = limits.Limits(cpu_milli=0, memory_mib=0, pids=0)
    assert limits.to_v1_files(none) == {
        "cpu": {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "-1"},
        "memory": {"memory.limit_in_bytes": "-1"},
        "pids": {"pids.max": "max"},
    }
    assert limits.to_v2_files(none) == {"cpu.max": "max 100000", "memory.max": "max", "pids.max": "max"}
