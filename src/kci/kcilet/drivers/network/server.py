"""The port `Network`: answers the CNI plugin on a unix socket, one JSON line for one JSON line.

The pods' interfaces are known only here, from `expect`; what is wired is known to the kernel only,
so removing works after any restart. A pod is wired only once the firewall that was set names it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeVar

import msgspec
import structlog

from kci.kcilet import ports
from kci.kcilet.drivers.network import cni, flows, rules, services, tables, wiring
from kci.kcilet.drivers.network import firewall as firewalls
from kci.kit import crashpoints, errors, linkgroups, observing, tasks
from kci.kube import models
from kci.link import types as link

T = TypeVar("T")
log = structlog.get_logger(__name__)

# The plugin itself waits 30 s; the kernel takes milliseconds.
_READ_S = 5.0
_WIRE_S = 20.0
# The firewall is set as soon as a group is wanted; a pod's sandbox takes longer to be made.
_GUARD_S = 5.0
_MAX_LINE_BYTES = 64 << 10
# Of one pod at once, by default: a sixteenth of what a machine tracks; counting them takes longer and longer.
CONNECTIONS = 16384


def table_name(holder: str) -> str:
    """The table of nftables that is ours, beside the link that holds the gateways."""
    return f"{holder}-guard"


@contextlib.asynccontextmanager
async def open_network(
    socket_path: pathlib.Path,
    holder: str,
    *,
    reachable: frozenset[rules.Endpoint] = frozenset(),
    connections: int = CONNECTIONS,
) -> AsyncIterator[PodNetwork]:
    """Listens until the block ends. The link that holds the gateways is there before, and not ours. Of the
    machine pods reach what is `reachable`, and each has at most so many connections at once.
    """
    frame = rules.Frame(
        table=table_name(holder),
        link_group=linkgroups.number_of(holder),
        reachable=reachable,
        connections=connections,
    )
    thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
    loop = asyncio.get_running_loop()
    try:
        kernel = await loop.run_in_executor(thread, _Kernel, holder, frame)
        try:
            network = PodNetwork(kernel, thread)
            loop.add_reader(kernel.deletions.fileno(), network.note_deletions)
            try:
                async with tasks.Tasks() as group, _listening(socket_path, network, group):
                    yield network
            finally:
                _ = loop.remove_reader(kernel.deletions.fileno())
        finally:
            await loop.run_in_executor(thread, kernel.close)
    except firewalls.FirewallError as error:
        raise errors.UserError(str(error)) from error
    finally:
        thread.shutdown(wait=False)


@contextlib.asynccontextmanager
async def _listening(
    socket_path: pathlib.Path, network: PodNetwork, group: tasks.Tasks
) -> AsyncIterator[None]:
    def on_connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _ = group.spawn("cni", network.serve(reader, writer))

    # The folder is ours alone, so what lies there is a socket of an earlier run.
    await tasks.in_thread(_remove_file, socket_path)
    server = await asyncio.start_unix_server(on_connect, socket_path, limit=_MAX_LINE_BYTES)
    try:
        await tasks.in_thread(socket_path.chmod, 0o600)
        yield
    finally:
        server.close()
        await tasks.in_thread(_remove_file, socket_path)


def _remove_file(path: pathlib.Path) -> None:
    path.unlink(missing_ok=True)


class _Kernel:
    """Links and rules, in one thread. Raises WiringError and FirewallError."""

    def __init__(self, holder: str, frame: rules.Frame) -> None:
        self.wires = wiring.Wiring(holder)
        try:
            self._firewall = firewalls.Firewall(frame)
        except firewalls.FirewallError:
            self.wires.close()
            raise
        reachable = [ports.Reachable(one.address, one.port, one.protocol) for one in frame.reachable]
        self.ways = services.Services(holder, reachable)
        try:
            self.deletions = tables.Deletions((frame.table, self.ways.table))
        except OSError as error:
            for one in (self.ways, self._firewall, self.wires):
                one.close()
            raise firewalls.FirewallError(f"cannot listen to changes of nftables: {error}") from error
        self._is_adopted = False
        self._gateways: frozenset[str] | None = None

    def close(self) -> None:
        self.deletions.close()
        self.ways.close()
        self._firewall.close()
        self.wires.close()

    def list_pods(self) -> frozenset[tuple[str, str]]:
        """See firewalls.Firewall.list_pods."""
        return self._firewall.list_pods()

    def is_whole(self) -> bool:
        """Whether all rules that we made are there."""
        return self._firewall.is_whole() and self.ways.is_whole()

    def set_rules(self, wanted: ports.Firewall) -> bool:
        """Whether they are set now (see firewalls.Firewall.ensure)."""
        return self._firewall.ensure(wanted)

    def set_links(self, wanted: ports.Firewall) -> None:
        """Have the machine's side as the rules say: once for what an earlier run left, and the gateways."""
        if not wanted.is_whole:
            return
        if not self._is_adopted:
            self.wires.adopt({cni.to_link_name(pod.pod_uid): pod.interface for pod in wanted.pods})
            self._is_adopted = True
        gateways = frozenset(pod.interface.gateway for pod in wanted.pods)
        if gateways != self._gateways:
            self.wires.keep_gateways(gateways)
            self._gateways = gateways


class PodNetwork:
    """Made by `open_network`."""

    def __init__(self, kernel: _Kernel, thread: concurrent.futures.ThreadPoolExecutor) -> None:
        self._kernel = kernel
        self._wires = kernel.wires
        self._ways = kernel.ways
        self._thread = thread
        self._guarded: frozenset[models.PodUid] = frozenset()
        self._guarded_changed = asyncio.Condition()
        self._has_deletions = asyncio.Event()
        # Why the rules could not be set the last time, for those who wait for them.
        self._refusal = ""
        # Links and addresses of those that have rules; None until that is known.
        self._ruled: frozenset[tuple[str, str]] | None = None
        # Of pods that are gone, and flows of theirs may not be.
        self._left: frozenset[tuple[str, str]] = frozenset()
        # With the outlook on Services, empty for none.
        self._expected: dict[models.PodUid, tuple[link.Interface, ports.TrafficLimits, str]] = {}
        # For whom it is expected: the plugin that comes knows no trace.
        self._spans: dict[models.PodUid, observing.Span] = {}

    def expect(
        self,
        pod_uid: models.PodUid,
        interface: link.Interface,
        limits: ports.TrafficLimits,
        *,
        outlook: str = "",
    ) -> None:
        self._expected[pod_uid] = interface, limits, outlook
        self._spans[pod_uid] = observing.current()

    async def guard(self, firewall: ports.Firewall) -> None:
        try:
            await self._note_left(firewall)
            # Here as well: the rules that are there now are all that a next life of ours would know of them.
            with contextlib.suppress(OSError):
                await self._forget_flows()
            is_set = await self._in_thread(lambda: self._kernel.set_rules(firewall))
            self._refusal = ""
            if not is_set:
                return
            await self._let_in(firewall)
            if self._left:
                # Now nothing of theirs passes any more.
                await self._forget_flows()
                self._left = frozenset()
                await self._let_in(firewall)
            await self._in_thread(lambda: self._kernel.set_links(firewall))
        except (firewalls.FirewallError, wiring.WiringError, OSError) as error:
            self._refusal = str(error)
            raise ports.DriverError(f"cannot set the rules for pods' traffic: {error}") from error

    def note_deletions(self) -> None:
        """The kernel tells that something of nftables' was deleted, by us or by others."""
        if self._kernel.deletions.read():
            self._has_deletions.set()

    async def until_meddled(self) -> None:
        while True:
            _ = await self._has_deletions.wait()
            self._has_deletions.clear()
            try:
                # In our thread, so none of our own changes is half-way.
                if not await self._in_thread(self._kernel.is_whole):
                    return
            except TimeoutError:
                # Setting the rules tells what is wrong.
                return

    async def _note_left(self, firewall: ports.Firewall) -> None:
        if self._ruled is None:
            if not firewall.is_whole:
                return
            self._ruled = await self._in_thread(self._kernel.list_pods)
        wanted = frozenset((cni.to_link_name(pod.pod_uid), pod.interface.address) for pod in firewall.pods)
        self._left = (self._left | self._ruled) - wanted
        self._ruled = wanted

    async def _forget_flows(self) -> None:
        if self._left:
            crashpoints.reached("kcilet.forget_flows.before")
            await tasks.in_thread(flows.forget, {address for _, address in self._left})
            crashpoints.reached("kcilet.forget_flows.after")

    async def _let_in(self, firewall: ports.Firewall) -> None:
        """These pods may be wired, but for those whose address a former pod may have flows with."""
        taken = {address for _, address in self._left}
        async with self._guarded_changed:
            self._guarded = frozenset(
                pod.pod_uid for pod in firewall.pods if pod.interface.address not in taken
            )
            self._guarded_changed.notify_all()

    async def limit_traffic(self, pod_uid: models.PodUid, limits: ports.TrafficLimits) -> None:
        try:
            await self._in_thread(lambda: self._wires.limit(cni.to_link_name(pod_uid), limits))
        except (wiring.WiringError, TimeoutError) as error:
            raise ports.DriverError(f"cannot limit the traffic of pod {pod_uid}: {error}") from error

    async def remove_network(self, pod_uid: models.PodUid) -> None:
        self._expected.pop(pod_uid, None)
        self._spans.pop(pod_uid, None)
        try:
            await self._in_thread(lambda: self._wires.remove(cni.to_link_name(pod_uid)))
            await self._in_thread(lambda: self._ways.dismiss(pod_uid))
        except (wiring.WiringError, services.ServicesError, TimeoutError) as error:
            raise ports.DriverError(f"cannot remove the link of pod {pod_uid}: {error}") from error

    async def change_services(
        self, outlook: str, change: ports.ServiceChange, members: Mapping[models.PodUid, link.Interface]
    ) -> None:
        # Not the caller's any more when the thread comes to it.
        members = dict(members)
        try:
            await self._in_thread(lambda: self._ways.change(outlook, change, members))
        except (services.ServicesError, TimeoutError) as error:
            raise ports.DriverError(f"cannot change the rules for Services: {error}") from error

    async def forget_services(self, outlook: str) -> None:
        try:
            await self._in_thread(lambda: self._ways.forget(outlook))
        except (services.ServicesError, TimeoutError) as error:
            raise ports.DriverError(f"cannot remove the rules for Services: {error}") from error

    async def own_addresses(self) -> frozenset[str]:
        try:
            return await self._in_thread(self._wires.own_addresses)
        except (wiring.WiringError, TimeoutError) as error:
            raise ports.DriverError(f"cannot list the machine's addresses: {error}") from error

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question of the plugin; whatever is wrong with it is the answer."""
        try:
            async with asyncio.timeout(_READ_S):
                line = await reader.readline()
            writer.write(msgspec.json.encode(await self._answer(line)) + b"\n")
            async with asyncio.timeout(_READ_S):
                await writer.drain()
        except (OSError, ValueError, TimeoutError) as error:
            log.warning("lost the CNI plugin", error=repr(error))
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> cni.Answer:
        try:
            request = msgspec.json.decode(line, type=cni.Request)
            pod_uid = cni.parse_pod_uid(request.args)
        except (msgspec.DecodeError, ValueError) as error:
            return cni.Answer(error=f"cannot read the CNI plugin's question: {error}")
        try:
            match request.command:
                case "ADD":
                    span = self._spans.pop(pod_uid, observing.NO_SPAN)
                    with observing.spanned(span.child("CNI ADD")):
                        return cni.Answer(result=await self._add(pod_uid, request))
                case "DEL":
                    name, owner = cni.to_link_name(pod_uid), request.container_id
                    await self._in_thread(lambda: self._wires.remove(name, alias_ends_with=owner))
                    return cni.Answer()
                case other:
                    return cni.Answer(error=f"cannot serve the CNI command {other!r}")
        except (wiring.WiringError, services.ServicesError, ports.DriverError, TimeoutError) as error:
            log.warning("cannot wire a pod", pod_uid=pod_uid, command=request.command, error=repr(error))
            return cni.Answer(error=f"cannot {request.command} the network of pod {pod_uid}: {error}")

    async def _add(self, pod_uid: models.PodUid, request: cni.Request) -> cni.Result:
        expected = self._expected.get(pod_uid)
        if expected is None:
            raise ports.DriverError("no interface is expected for it")
        interface, limits, outlook = expected
        await self._wait_guarded(pod_uid)
        # The sandbox comes last: by it DEL knows whose link it is.
        alias = f"kci {pod_uid} {request.container_id}"
        name = cni.to_link_name(pod_uid)
        # First: the rules are there before the pod's first process, and none of a former pod's.
        await self._in_thread(lambda: self._ways.admit(pod_uid, interface, outlook))
        await self._in_thread(lambda: self._wires.add(name, alias, interface, request, limits))
        return cni.to_result(interface, request)

    async def _wait_guarded(self, pod_uid: models.PodUid) -> None:
        try:
            async with asyncio.timeout(_GUARD_S), self._guarded_changed:
                _ = await self._guarded_changed.wait_for(lambda: pod_uid in self._guarded)
        except TimeoutError as error:
            because = f": {self._refusal}" if self._refusal else ""
            raise ports.DriverError(f"there are no rules for its traffic{because}") from error

    async def _in_thread(self, call: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_WIRE_S):
                return await loop.run_in_executor(self._thread, call)
        except TimeoutError as error:
            raise TimeoutError(f"the kernel was not done with it within {_WIRE_S:.0f} s") from error
