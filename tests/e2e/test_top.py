"""`kubectl top` and an autoscaler with the real metrics-server: what they go by is what the kernel counts."""

import contextlib
import datetime
import json
import pathlib
import threading
import time

import pytest
import yaml
from line import REPOSITORY, eventually, pod

from kci.stack import metricsapi

pytestmark = pytest.mark.e2e

ROOT = pathlib.Path("/sys/fs/cgroup")
IS_V2 = (ROOT / "cgroup.controllers").exists()
HELD, WEB = "held", "nginx-kci"
HELD_MIB, MIB = 48, 1 << 20
# A share of the machine that is there whoever else works on it.
SHARE = {"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "300m"}}}
GONE = ("delete", "--wait=true", "--ignore-not-found", "--now")
BUSY = "touch /tmp/busy; (while [ -e /tmp/busy ]; do :; done) >/dev/null 2>&1 &"
# Else an autoscaler waits for five minutes before it goes down.
AT_ONCE = {"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}}
# metrics-server looks each 15 s, and an autoscaler too; a busy machine may be late.
PATIENCE_S = 90


def web():
    """The sample, with one pod and a size to measure by."""
    deployment = yaml.safe_load((REPOSITORY / "deploy" / "nginx-kci.yaml").read_text())
    deployment["spec"]["replicas"] = 1
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container.update(SHARE, imagePullPolicy="IfNotPresent")
    return deployment


class Kernel:
    """What the kernel counts for each pod, looked at again and again."""

    def __init__(self, parent):
        self._parent = parent
        # When, and by pod's UID the CPU used since its beginning in ns and the working set in bytes.
        self._seen = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, name="kernel's counts")

    def __enter__(self):
        self._thread.start()
        eventually(lambda: self._seen)
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join(10)

    @property
    def since_s(self):
        return self._seen[0][0]

    def cores(self, begin_s, end_s, uid=None):
        """On average between two times: of one pod, or of all together."""
        used = _total(self._at(end_s), 0, uid) - _total(self._at(begin_s), 0, uid)
        return used / (end_s - begin_s) / 1e9

    def working_set(self, time_s, uid=None):
        return _total(self._at(time_s), 1, uid)

    def _at(self, time_s):
        """The nearest look."""
        return min(self._seen, key=lambda one: abs(one[0] - time_s))[1]

    def _look(self):
        hierarchy = (ROOT if IS_V2 else ROOT / "memory") / self._parent
        while not self._end.wait(0.2):
            counts = {}
            for path in hierarchy.glob("pod*"):
                folder = path.relative_to(hierarchy.parent)
                # One that is just going is left out.
                with contextlib.suppress(OSError):
                    counts[path.name.removeprefix("pod")] = (_cpu_ns(folder), _working_set(folder))
            self._seen.append((time.time(), counts))


def _total(counts, column, uid):
    return counts[uid][column] if uid else sum(count[column] for count in counts.values())


def _read(controller, folder, file):
    return (ROOT if IS_V2 else ROOT / controller).joinpath(folder, file).read_text()


def _pairs(text):
    return {name: int(number) for name, number in (row.split() for row in text.splitlines())}


def _cpu_ns(folder):
    if IS_V2:
        return _pairs(_read("", folder, "cpu.stat"))["usage_usec"] * 1000
    return int(_read("cpuacct", folder, "cpuacct.usage"))


def _working_set(folder):
    stat = _pairs(_read("memory", folder, "memory.stat"))
    if IS_V2:
        return int(_read("", folder, "memory.current")) - stat["inactive_file"]
    return int(_read("memory", folder, "memory.usage_in_bytes")) - stat["total_inactive_file"]


@pytest.fixture(scope="module")
def pods(line, guard):
    line.apply(
        pod(
            HELD,
            f"dd if=/dev/zero of=/dev/shm/held bs=1M count={HELD_MIB}; while :; do :; done",
            container=SHARE,
        ),
        web(),
    )
    line.wait_ready(f"pod/{HELD}")
    line.wait_pods_ready("app=nginx", 1)
    line.kubectl("exec", f"deployment/{WEB}", "--", "sh", "-c", BUSY)
    yield line
    line.kubectl(*GONE, "horizontalpodautoscaler,deployment", WEB)
    line.kubectl(*GONE, "pod", HELD)
    eventually(lambda: not line.pods("app=nginx"))


def asked(line, what, name):
    """What metrics-server says, and what `kubectl top` makes of it: (metrics, cores, bytes)."""
    where = f"namespaces/default/{what}s" if what == "pod" else f"{what}s"
    path = f"/apis/{metricsapi.GROUP}/{metricsapi.VERSION}/{where}/{name}"
    told = json.loads(line.kubectl("get", "--raw", path))
    columns = line.kubectl("top", what, name, "--no-headers").split()[1:]
    # Of a node, shares of all that it has stand between them.
    cores, memory = (next(one for one in columns if one.endswith(unit)) for unit in ("m", "Mi"))
    # Else it has looked at the node again meanwhile.
    same = json.loads(line.kubectl("get", "--raw", path))["timestamp"] == told["timestamp"]
    return (told, int(cores.removesuffix("m")) / 1000, int(memory.removesuffix("Mi")) * MIB) if same else None


def window(told):
    """From when to when it has measured. Its times are cut to whole seconds."""
    end_s = datetime.datetime.fromisoformat(told["timestamp"]).timestamp() + 0.5
    return end_s - float(told["window"].removesuffix("s")), end_s


@pytest.fixture(scope="module")
def kernel(pods):
    """Looks from when all pods are busy."""
    with Kernel(pods.where.cgroup_parent) as looking:
        yield looking


@pytest.mark.parametrize("what", ["pod", "node"])
def test_top_says_what_the_kernel_counts_within_a_tenth(pods, kernel, what):
    uid = pods.get("pod", HELD)["metadata"]["uid"] if what == "pod" else None
    (node,) = pods.get("nodes")["items"]
    name = HELD if what == "pod" else node["metadata"]["name"]

    def measured():
        found = asked(pods, what, name)
        return found if found and window(found[0])[0] >= kernel.since_s else None

    told, cores, memory = eventually(measured, timeout_s=PATIENCE_S)
    begin_s, end_s = window(told)
    # Both figures are rounded: to thousandths of a core, and to MiB.
    assert cores == pytest.approx(kernel.cores(begin_s, end_s, uid), rel=0.1, abs=0.001)
    assert memory == pytest.approx(kernel.working_set(end_s, uid), rel=0.1, abs=MIB)
    # And it is what was done, of which a busy machine leaves less: not nothing, which would be equal too.
    assert cores > 0.01
    assert memory >= HELD_MIB * MIB


def test_an_autoscaler_follows_what_pods_use_up_and_down(pods):
    pods.kubectl("autoscale", "deployment", WEB, "--cpu=50%", "--min=1", "--max=2")
    pods.kubectl("patch", "horizontalpodautoscaler", WEB, "--type=merge", "-p", json.dumps(AT_ONCE))
    both = pods.wait_pods_ready("app=nginx", 2, timeout_s=PATIENCE_S)
    assert {one["spec"]["nodeName"] for one in both.values()} == {"virtual-kubelet"}
    (current,) = pods.get("horizontalpodautoscaler", WEB)["status"]["currentMetrics"]
    assert current["resource"]["current"]["averageUtilization"] > 50

    for name in both:
        pods.kubectl("exec", name, "--", "rm", "-f", "/tmp/busy")
    eventually(
        lambda: len(pods.pods("app=nginx")) == 1 and pods.get("deployment", WEB)["spec"]["replicas"] == 1,
        timeout_s=PATIENCE_S,
        what="one pod is enough",
    )
    conditions = pods.get("horizontalpodautoscaler", WEB)["status"]["conditions"]
    assert {one["type"]: one["status"] for one in conditions}["ScalingActive"] == "True"
