"""Services on their way to pods: from what the source shows to rules in the kernel, in a network namespace of
its own. `python bench/services.py` measures this alone; it needs root and no stack.

The way from the API server is not in these figures: a watch shows a change within milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent import futures

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "harness"))

import netns_loop  # noqa: E402
import pyroute2  # noqa: E402
from pyroute2.netlink.nfnetlink import nfctsocket  # noqa: E402

from kci.kcilet import ports  # noqa: E402
from kci.kcilet.drivers.network import server, services  # noqa: E402
from kci.kcilet.workers import proxy  # noqa: E402
from kci.kit import logs, tasks  # noqa: E402
from kci.kube import models  # noqa: E402
from kci.link import types as link  # noqa: E402

SERVICES, ENDPOINTS, PODS, CHANGES, FLAPS_A_SECOND, FLAP_S = 1000, 3, 200, 200, 100, 5.0
# As many as one pod may have.
FLOWS = 16384
BRIDGE = "kcibench0"
Name = tuple[str, str]


class Source:
    """A port.Services with so many Services; `change` gives one of them other endpoints."""

    outlook, node_name, zone, is_known, problem = "bench", "vn1", "", True, ""

    def __init__(self, count: int) -> None:
        self.services: dict[Name, models.Service] = {}
        self._slices: dict[Name, models.EndpointSlice] = {}
        self._changed: set[Name] = set()
        self._holders: dict[object, Callable[[], None]] = {}
        for number in range(count):
            name = ("default", f"service-{number}")
            spec = models.ServiceSpec(
                cluster_ip=f"10.96.{number // 250}.{number % 250 + 1}",
                ports=(models.ServicePort(port=80),),
            )
            meta = models.ObjectMeta(namespace=name[0], name=name[1])
            self.services[name] = models.Service(metadata=meta, spec=spec)
            self.change(number)

    def change(self, number: int) -> None:
        name = ("default", f"service-{number}")
        addresses = {
            f"10.{random.randint(100, 200)}.{random.randint(0, 255)}.{one}" for one in range(ENDPOINTS)
        }
        self._slices[name] = models.EndpointSlice(
            endpoints=tuple(models.Endpoint(addresses=(one,)) for one in addresses),
            ports=(models.EndpointPort(name="", port=8080, protocol="TCP"),),
        )
        self._changed.add(name)
        for on_change in self._holders.values():
            on_change()

    def slices(self, name: Name) -> Collection[models.EndpointSlice]:
        return [self._slices[name]]

    def take_changed(self) -> set[Name]:
        found, self._changed = self._changed, set()
        return found

    def hold(self, holder: object, on_change: Callable[[], None]) -> None:
        self._holders[holder] = on_change

    def release(self, holder: object) -> None:
        del self._holders[holder]


class Watched:
    """The network driver, and when its last change was in the kernel."""

    def __init__(self, network: server.PodNetwork) -> None:
        self._network = network
        self.changed = asyncio.Event()
        self.took_ms: list[float] = []

    async def change_services(
        self, outlook: str, change: ports.ServiceChange, members: Mapping[models.PodUid, link.Interface]
    ) -> None:
        began_s = time.perf_counter()
        await self._network.change_services(outlook, change, members)
        self.took_ms.append((time.perf_counter() - began_s) * 1000)
        if change.put:
            self.changed.set()

    def __getattr__(self, name: str) -> object:
        return getattr(self._network, name)


def measure() -> dict[str, object]:
    logs.configure("warning")
    with _namespace() as name, netns_loop.NetnsLoop(name) as loop, tempfile.TemporaryDirectory() as folder:
        found = loop.call(_measure(pathlib.Path(folder, "cni.sock")), timeout_s=300)
    return {**found, "flows_of_udp": measure_flows()}


def measure_flows() -> dict[str, object]:
    with (
        _namespace() as name,
        futures.ThreadPoolExecutor(1, initializer=netns_loop.enter, initargs=(name,)) as thread,
    ):
        return thread.submit(_measure_flows).result(300)


async def _measure(socket: pathlib.Path) -> dict[str, object]:
    async with server.open_network(socket, BRIDGE) as network, tasks.Tasks() as group:
        source, watched = Source(SERVICES), Watched(network)
        ours = proxy.Proxy(watched)  # type: ignore[arg-type]  # what it does not have is the driver's
        running = group.spawn("proxy", ours.run())
        began_s, cpu_s = time.perf_counter(), time.process_time()
        ours.hold(models.PodUid("pod-0"), source, _interface(0), print)
        assert await ours.first_rules(source)
        first_ms = (time.perf_counter() - began_s) * 1000
        first_cpu_ms = (time.process_time() - cpu_s) * 1000
        rules_ms = watched.took_ms[0]
        began_s = time.perf_counter()
        for number in range(1, PODS):
            ours.hold(models.PodUid(f"pod-{number}"), source, _interface(number), print)
        await _until(lambda: len(watched.took_ms) > 1)
        pods_ms = (time.perf_counter() - began_s) * 1000
        cpu_s = time.process_time()
        late_ms = [await _change(source, watched) for _ in range(CHANGES)]
        change_cpu_ms = (time.process_time() - cpu_s) / CHANGES * 1000
        began_s, cpu_s, before = time.perf_counter(), time.process_time(), len(watched.took_ms)
        while time.perf_counter() < began_s + FLAP_S:
            source.change(random.randrange(SERVICES))
            await asyncio.sleep(1 / FLAPS_A_SECOND)
        flap = {
            "changes_a_second": FLAPS_A_SECOND,
            "transactions_a_second": round((len(watched.took_ms) - before) / FLAP_S, 1),
            "share_of_a_core": round((time.process_time() - cpu_s) / (time.perf_counter() - began_s), 3),
        }
        _ = running.cancel()
    return {
        "services": SERVICES,
        "endpoints_each": ENDPOINTS,
        "pods": PODS,
        "first_rules_ms": round(first_ms, 1),
        # Less than the time above on a machine that does other things, too.
        "first_rules_cpu_ms": round(first_cpu_ms, 1),
        "of_that_nftables_ms": round(rules_ms, 1),
        "all_other_pods_ms": round(pods_ms, 1),
        "change_ms": _percentiles(late_ms),
        "change_cpu_ms": round(change_cpu_ms, 2),
        "flapping": flap,
    }


def _measure_flows() -> dict[str, object]:
    """A Service of UDP whose endpoint changes while a client has very many flows to it."""
    driver = services.Services(BRIDGE)
    key, interface = ports.ServiceAddress("10.96.9.9", "udp", 53), _interface(0)
    table = {key: ports.Backend((ports.Endpoint("10.9.8.1", 53),))}
    first = ports.ServiceChange(table, is_whole=True)
    driver.change("flows", first, {models.PodUid("pod-0"): interface})
    assert driver.wait_cleared(60)
    _begin_flows(interface.address, key, "10.9.8.1")
    cpu_s, began_s = time.process_time(), time.perf_counter()
    driver.change("flows", ports.ServiceChange({key: ports.Backend((ports.Endpoint("10.9.8.2", 53),))}), {})
    changed_ms = (time.perf_counter() - began_s) * 1000
    assert driver.wait_cleared(60)
    cleared_ms = (time.perf_counter() - began_s) * 1000
    cpu_ms = (time.process_time() - cpu_s) * 1000
    driver.close()
    with pyroute2.NFCTSocket() as netlink:
        assert netlink.count()[0].get_attr("CTA_STATS_GLOBAL_ENTRIES") == 0
    return {
        "flows": FLOWS,
        "change_ms": round(changed_ms, 1),
        "cleared_after_ms": round(cleared_ms, 1),
        "cpu_ms": round(cpu_ms, 1),
    }


def _begin_flows(client: str, key: ports.ServiceAddress, endpoint: str) -> None:
    """As if so many sockets of the client had sent a packet each."""
    with pyroute2.NFCTSocket() as netlink:
        for number in range(FLOWS):
            sent = nfctsocket.NFCTAttrTuple(
                saddr=client, daddr=key.address, proto=17, sport=20000 + number, dport=key.port
            )
            answered = nfctsocket.NFCTAttrTuple(
                saddr=endpoint, daddr=client, proto=17, sport=53, dport=20000 + number
            )
            _ = netlink.entry("add", timeout=600, tuple_orig=sent, tuple_reply=answered)


async def _change(source: Source, watched: Watched) -> float:
    await asyncio.sleep(random.random() * 0.1)
    watched.changed.clear()
    began_s = time.perf_counter()
    source.change(random.randrange(SERVICES))
    _ = await watched.changed.wait()
    return (time.perf_counter() - began_s) * 1000


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  (a list does not tell)
        await asyncio.sleep(0.001)


def _interface(number: int) -> link.Interface:
    return link.Interface(
        address=f"10.9.{number // 250}.{number % 250 + 2}",
        prefix_length=32,
        gateway="10.9.0.1",
        mac_address="02:00:00:00:00:01",
    )


def _percentiles(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[max(0, round(share * len(ordered)) - 1)], 1) for name, share in at.items()}


@contextlib.contextmanager
def _namespace() -> Iterator[str]:
    name = f"kci-bench-{uuid.uuid4().hex[:6]}"
    path = pathlib.Path("/run/netns") / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    subprocess.run(["unshare", f"--net={path}", "true"], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
