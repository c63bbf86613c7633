"""The port `Runtime` on a CRI v1 runtime (containerd 1.6 or newer).

The runtime is the only memory: all that is kept here are facts that do not change any more
(a sandbox's address, the status of a container in a state), so that a look at a pod costs two lists
and nothing per container that was seen before.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import pathlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import structlog

from kci.kcilet import ports
from kci.kcilet.drivers.runtime import connection as connections
from kci.kcilet.drivers.runtime import containers, images, labels, looks, sandboxes, seen, shims
from kci.kcilet.drivers.runtime.api import api_pb2
from kci.kit import observing, tasks
from kci.kube import models
from kci.link import types as link

log = structlog.get_logger(__name__)

# Only for runtimes without events.
_POLL_S = 0.5
_PARALLEL_LOOKS = 16
# What is kept of a command's output.
_OUTPUT_BYTES = 10 << 10


@contextlib.asynccontextmanager
async def open_runtime(
    socket_path: str,
    *,
    deadlines: connections.Deadlines | None = None,
    on_call: observing.OnCall = observing.no_call,
) -> AsyncIterator[CriRuntime]:
    """The runtime at a unix socket; it need not answer yet."""
    connection = connections.Connection(socket_path, on_call=on_call)
    try:
        yield CriRuntime(
            connection,
            machine_memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            deadlines=deadlines or connections.Deadlines(),
        )
    finally:
        await connection.close()


class CriRuntime:
    """Made by `open_runtime`."""

    def __init__(
        self,
        connection: connections.Connection,
        *,
        machine_memory_bytes: int,
        deadlines: connections.Deadlines,
    ) -> None:
        self._connection = connection
        self._machine_memory_bytes = machine_memory_bytes
        self._deadlines = deadlines
        self._looks = looks.Looks(self._look_at)
        # What never changes again, by the id it belongs to.
        self._sandboxes: dict[str, api_pb2.PodSandboxConfig] = {}
        self._addresses: dict[str, str] = {}
        self._statuses: dict[str, api_pb2.ContainerStatus] = {}
        self._image_users: dict[str, str] = {}
        # Events name a sandbox or container; whose it is was seen when it was made or listed.
        self._pod_uids: dict[str, models.PodUid] = {}

    # ---- looking ------------------------------------------------------------------------------

    async def version(self) -> ports.RuntimeVersion:
        answer = await self._look(
            self._connection.runtime.Version, api_pb2.VersionRequest(), "ask the runtime's version"
        )
        return ports.RuntimeVersion(name=answer.runtime_name, version=answer.runtime_version)

    async def list_pods(self) -> list[ports.SeenPod]:
        return await self._to_pods(await self._list(labels.OURS))

    async def observe_pod(self, pod_uid: models.PodUid) -> ports.SeenPod:
        pods = await self._to_pods((await self._looks.at(pod_uid)).of(pod_uid))
        return pods[0] if pods else ports.SeenPod(pod_uid=pod_uid)

    async def _look_at(self, pod_uids: frozenset[models.PodUid]) -> seen.Listing:
        only = {labels.POD_UID: next(iter(pod_uids))} if len(pod_uids) == 1 else {}
        return await self._list({**labels.OURS, **only})

    async def _list(self, selector: dict[str, str]) -> seen.Listing:
        sandboxes_listed = await self._list_sandboxes(selector)
        return seen.Listing(sandboxes_listed, await self._list_containers(selector))

    async def _to_pods(self, listing: seen.Listing) -> list[ports.SeenPod]:
        listed_sandboxes, listed_containers = listing.sandboxes, listing.containers
        found: dict[models.PodUid, list[ports.SeenContainer]] = {}
        unknown = [listed for listed in listed_containers if not self._is_status_known(listed)]
        fresh = await tasks.wait_all(
            (self._ask_status(listed) for listed in unknown), name="container-status", limit=_PARALLEL_LOOKS
        )
        statuses = dict(zip((listed.id for listed in unknown), fresh, strict=True))
        for listed in listed_containers:
            status = statuses.get(listed.id) if listed.id in statuses else self._statuses.get(listed.id)
            pod_uid = models.PodUid(listed.labels[labels.POD_UID])
            found.setdefault(pod_uid, []).append(seen.to_container(listed, status))
        addresses = await tasks.wait_all(
            (self._address(sandbox) for sandbox in listed_sandboxes),
            name="sandbox-address",
            limit=_PARALLEL_LOOKS,
        )
        pairs = zip(listed_sandboxes, addresses, strict=True)
        return seen.to_pods((seen.to_sandbox(sandbox, address) for sandbox, address in pairs), found)

    async def _list_sandboxes(self, selector: dict[str, str]) -> Sequence[api_pb2.PodSandbox]:
        answer = await self._look(
            self._connection.runtime.ListPodSandbox,
            api_pb2.ListPodSandboxRequest(filter=api_pb2.PodSandboxFilter(label_selector=selector)),
            "list the runtime's sandboxes",
        )
        found: Sequence[api_pb2.PodSandbox] = answer.items
        for sandbox in found:
            if sandbox.id not in self._sandboxes:
                self._sandboxes[sandbox.id] = sandboxes.to_known_config(sandbox)
            self._pod_uids[sandbox.id] = models.PodUid(sandbox.metadata.uid)
        return found

    async def _list_containers(self, selector: dict[str, str]) -> Sequence[api_pb2.Container]:
        answer = await self._look(
            self._connection.runtime.ListContainers,
            api_pb2.ListContainersRequest(filter=api_pb2.ContainerFilter(label_selector=selector)),
            "list the runtime's containers",
        )
        found: Sequence[api_pb2.Container] = answer.containers
        for container in found:
            self._pod_uids[container.id] = models.PodUid(container.labels[labels.POD_UID])
        return found

    def _is_status_known(self, listed: api_pb2.Container) -> bool:
        """Whether there is nothing to ask: one that was never started has no status."""
        if listed.state == api_pb2.ContainerState.CONTAINER_CREATED:
            return True
        known = self._statuses.get(listed.id)
        return known is not None and known.state == listed.state

    async def _ask_status(self, listed: api_pb2.Container) -> api_pb2.ContainerStatus | None:
        """The status in its state of now; None for one that is gone."""
        try:
            answer = await self._look(
                self._connection.runtime.ContainerStatus,
                api_pb2.ContainerStatusRequest(container_id=listed.id),
                f"look at container {listed.id}",
            )
        except ports.NotFoundError:
            return None
        status: api_pb2.ContainerStatus = answer.status
        self._statuses[listed.id] = status
        return status

    async def _address(self, sandbox: api_pb2.PodSandbox) -> str:
        known = self._addresses.get(sandbox.id, "")
        if known or sandbox.state != api_pb2.PodSandboxState.SANDBOX_READY:
            return known
        try:
            answer = await self._look(
                self._connection.runtime.PodSandboxStatus,
                api_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox.id),
                f"look at sandbox {sandbox.id}",
            )
        except ports.NotFoundError:
            return ""
        address: str = answer.status.network.ip
        if address:
            self._addresses[sandbox.id] = address
        return address

    # ---- events -------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[ports.RuntimeEvent]:
        what = "follow the runtime's events"
        answers = self._connection.stream(
            self._connection.runtime.GetContainerEvents, api_pb2.GetEventsRequest(), what=what
        )
        try:
            async with contextlib.aclosing(answers):
                async for answer in answers:
                    self._learn(answer)
                    pod_uid = self._pod_of(answer)
                    if pod_uid:
                        yield ports.RuntimeEvent(pod_uid=pod_uid)
        except connections.UnimplementedError:
            log.warning("the runtime has no events, polling it", every_s=_POLL_S)
            async with contextlib.aclosing(self._polled_events()) as events:
                async for event in events:
                    yield event
        raise ports.UnavailableError(f"cannot {what}: the stream ended")

    def _pod_of(self, event: api_pb2.ContainerEventResponse) -> models.PodUid | None:
        """Events of sandboxes carry the status; those of containers may come without one."""
        status = event.pod_sandbox_status
        if status.labels.get(labels.MANAGED):
            return models.PodUid(status.metadata.uid)
        return self._pod_uids.get(event.container_id)

    def _learn(self, event: api_pb2.ContainerEventResponse) -> None:
        """What a start is asked for otherwise. Of an end only the first half may be known yet (OOMKilled)."""
        box = event.pod_sandbox_status
        if box.network.ip and box.state == api_pb2.PodSandboxState.SANDBOX_READY:
            self._addresses[box.id] = box.network.ip
        for status in event.containers_statuses:
            # An event may be late: what was removed stays forgotten.
            if status.state == api_pb2.ContainerState.CONTAINER_RUNNING and status.id in self._pod_uids:
                self._statuses[status.id] = status

    async def _polled_events(self) -> AsyncGenerator[ports.RuntimeEvent, None]:
        before: dict[str, int] | None = None
        while True:
            known = dict(self._pod_uids)
            now: dict[str, int] = {s.id: s.state for s in await self._list_sandboxes(labels.OURS)}
            now.update({c.id: c.state for c in await self._list_containers(labels.OURS)})
            if before is not None:
                changed = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
                for pod_uid in {(known | self._pod_uids).get(key) for key in changed}:
                    if pod_uid:
                        yield ports.RuntimeEvent(pod_uid=pod_uid)
            before = now
            await asyncio.sleep(_POLL_S)

    # ---- images -------------------------------------------------------------------------------

    async def find_image(self, image: str) -> ports.ImageRef | None:
        images.check_name(image)
        return await self._image_status(image)

    async def pull_image(self, image: str, auths: Sequence[ports.RegistryAuth]) -> ports.ImageRef:
        images.check_name(image)
        failure: ports.ImagePullError | None = None
        # As a kubelet: every credential that fits is tried, and the last error is told.
        chosen: Sequence[ports.RegistryAuth | None] = images.choose_auths(image, auths)
        for auth in chosen or [None]:
            try:
                return await self._pull(image, auth)
            except ports.ImagePullError as error:
                failure = error
        assert failure is not None
        raise failure

    async def _pull(self, image: str, auth: ports.RegistryAuth | None) -> ports.ImageRef:
        try:
            answer = await self._connection.ask(
                self._connection.images.PullImage,
                api_pb2.PullImageRequest(image=api_pb2.ImageSpec(image=image), auth=_to_auth(auth)),
                what=f"pull image {image!r}",
                timeout_s=self._deadlines.pull_s,
            )
        except ports.UnavailableError:
            raise
        except ports.DriverError as error:
            raise ports.ImagePullError("ErrImagePull", str(error)) from error
        found = await self._image_status(answer.image_ref)
        if found is None:
            raise ports.ImagePullError("ErrImagePull", f"cannot use image {image!r}: it was removed again")
        return found

    async def _image_status(self, image: str) -> ports.ImageRef | None:
        answer = await self._look(
            self._connection.images.ImageStatus,
            api_pb2.ImageStatusRequest(image=api_pb2.ImageSpec(image=image)),
            f"look for image {image!r}",
        )
        if not answer.HasField("image"):
            return None
        user = str(answer.image.uid.value) if answer.image.HasField("uid") else answer.image.username
        self._image_users[answer.image.id] = user
        return ports.ImageRef(id=answer.image.id, user=user, size_bytes=answer.image.size)

    # ---- sandboxes ----------------------------------------------------------------------------

    async def run_sandbox(self, spec: ports.SandboxSpec) -> ports.SandboxId:
        await tasks.in_thread(_make_folder, pathlib.Path(spec.log_directory))
        config = sandboxes.to_sandbox_config(spec)
        answer = await self._connection.ask(
            self._connection.runtime.RunPodSandbox,
            api_pb2.RunPodSandboxRequest(config=config, runtime_handler=spec.runtime_handler),
            what=f"make the sandbox of pod {spec.pod.key}",
            timeout_s=self._deadlines.make_s,
        )
        sandbox_id = ports.SandboxId(answer.pod_sandbox_id)
        self._sandboxes[sandbox_id] = config
        self._pod_uids[sandbox_id] = spec.pod.uid
        return sandbox_id

    async def stop_sandbox(self, sandbox_id: ports.SandboxId) -> None:
        await self._end(
            self._connection.runtime.StopPodSandbox,
            api_pb2.StopPodSandboxRequest(pod_sandbox_id=sandbox_id),
            f"stop sandbox {sandbox_id}",
        )

    async def remove_sandbox(self, sandbox_id: ports.SandboxId) -> None:
        try:
            await self._end(
                self._connection.runtime.RemovePodSandbox,
                api_pb2.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id),
                f"remove sandbox {sandbox_id}",
            )
        except connections.LostTaskError:
            # It goes with its shim; the next try finds it gone.
            _ = await tasks.in_thread(shims.kill, sandbox_id)
            raise
        self._sandboxes.pop(sandbox_id, None)
        self._addresses.pop(sandbox_id, None)
        pod_uid = self._pod_uids.get(sandbox_id)
        # Its containers went with it; those of the pod's other sandboxes are learned again.
        self._forget(key for key, owner in list(self._pod_uids.items()) if owner == pod_uid)

    # ---- containers ---------------------------------------------------------------------------

    async def create_container(
        self, sandbox_id: ports.SandboxId, spec: ports.ContainerSpec
    ) -> ports.ContainerId:
        sandbox_config = await self._sandbox_config(sandbox_id)
        config = containers.to_container_config(
            spec,
            image_user=await self._image_user(spec.image_id),
            machine_memory_bytes=self._machine_memory_bytes,
        )
        log_path = pathlib.Path(sandbox_config.log_directory, config.log_path)
        await tasks.in_thread(_make_folder, log_path.parent)
        try:
            answer = await self._make(
                self._connection.runtime.CreateContainer,
                api_pb2.CreateContainerRequest(
                    pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox_config
                ),
                f"create container {spec.container.name!r} of pod {spec.pod.key}",
            )
        except ports.UnavailableError:
            raise
        except ports.DriverError as error:
            raise ports.ContainerError("CreateContainerError", str(error)) from error
        container_id = ports.ContainerId(answer.container_id)
        self._pod_uids[container_id] = spec.pod.uid
        return container_id

    async def start_container(self, container_id: ports.ContainerId) -> None:
        try:
            await self._make(
                self._connection.runtime.StartContainer,
                api_pb2.StartContainerRequest(container_id=container_id),
                f"start container {container_id}",
            )
        except ports.UnavailableError:
            raise
        except ports.DriverError as error:
            raise ports.ContainerError("RunContainerError", str(error)) from error

    async def _make(self, call: Callable[..., Any], request: Any, what: str) -> Any:
        """Not cut off at once when cancelled: containerd would go on with half of it, make containers that
        cannot start and forget processes that run already (1.7.24).
        """
        asked = self._connection.ask(call, request, what=what, timeout_s=self._deadlines.make_s)
        return await tasks.finish(what, asked, within_s=self._deadlines.look_s)

    async def stop_container(self, container_id: ports.ContainerId, grace_s: int) -> None:
        loop = asyncio.get_running_loop()
        began_s, timeout_s = loop.time(), grace_s + self._deadlines.stop_s
        try:
            await self._end(
                self._connection.runtime.StopContainer,
                api_pb2.StopContainerRequest(container_id=container_id, timeout=grace_s),
                f"stop container {container_id}",
                timeout_s=timeout_s,
            )
        except ports.UnavailableError:
            if loop.time() - began_s >= timeout_s:
                await self._kill_shim_of(container_id)
            raise

    async def _kill_shim_of(self, container_id: ports.ContainerId) -> None:
        """Past every deadline; if the runtime answers and only this container's end does not come."""
        answer = await self._look(
            self._connection.runtime.ListContainers,
            api_pb2.ListContainersRequest(filter=api_pb2.ContainerFilter(id=container_id)),
            f"look at container {container_id}",
        )
        for listed in answer.containers:
            if listed.state == api_pb2.ContainerState.CONTAINER_RUNNING:
                _ = await tasks.in_thread(shims.kill, ports.SandboxId(listed.pod_sandbox_id))

    async def remove_container(self, container_id: ports.ContainerId) -> None:
        await self._end(
            self._connection.runtime.RemoveContainer,
            api_pb2.RemoveContainerRequest(container_id=container_id),
            f"remove container {container_id}",
        )
        self._forget([container_id])

    async def run_command(
        self, container_id: ports.ContainerId, command: tuple[str, ...], *, timeout_s: float
    ) -> ports.CommandResult:
        """Run a command in a running container to its end, which the runtime brings about after that time:
        TimeoutError.
        """
        what = f"run a command in container {container_id}"
        try:
            answer = await self._connection.ask(
                self._connection.runtime.ExecSync,
                api_pb2.ExecSyncRequest(container_id=container_id, cmd=command, timeout=math.ceil(timeout_s)),
                what=what,
                timeout_s=timeout_s + self._deadlines.look_s,
            )
        except connections.DeadlineError as error:
            raise TimeoutError(f"cannot {what} within {timeout_s:g} s") from error
        return ports.CommandResult(answer.exit_code, (answer.stdout + answer.stderr)[:_OUTPUT_BYTES])

    async def exec_url(self, container_id: ports.ContainerId, options: link.ExecOptions) -> str:
        """Where the streams of a command in a running container are to be had, once, for a minute."""
        answer = await self._look(
            self._connection.runtime.Exec,
            api_pb2.ExecRequest(
                container_id=container_id,
                cmd=options.command,
                tty=options.tty,
                stdin=options.stdin,
                stdout=options.stdout,
                stderr=options.stderr and not options.tty,
            ),
            f"run a command in container {container_id}",
        )
        url: str = answer.url
        return url

    async def attach_url(self, container_id: ports.ContainerId, options: link.AttachOptions) -> str:
        """Where the streams of a running container are to be had, once, for a minute."""
        answer = await self._look(
            self._connection.runtime.Attach,
            api_pb2.AttachRequest(
                container_id=container_id,
                tty=options.tty,
                stdin=options.stdin,
                stdout=options.stdout,
                stderr=options.stderr and not options.tty,
            ),
            f"attach to container {container_id}",
        )
        url: str = answer.url
        return url

    async def list_written_logs(self) -> list[tuple[ports.ContainerId, pathlib.Path]]:
        """The logs of the containers that run."""
        return [
            (one.id, pathlib.Path(one.log_path))
            for pod in await self.list_pods()
            for one in pod.containers
            if one.phase is ports.ContainerPhase.RUNNING and one.log_path
        ]

    async def reopen_log(self, container_id: ports.ContainerId) -> None:
        """Have the container write its log to a new file, if the old one has lost its name."""
        await self._look(
            self._connection.runtime.ReopenContainerLog,
            api_pb2.ReopenContainerLogRequest(container_id=container_id),
            f"reopen the log of container {container_id}",
        )

    async def is_written(self, log_path: pathlib.Path) -> bool:
        """Whether a container still writes this log; yes if the runtime cannot say."""
        selector = {**labels.OURS, labels.CONTAINER_NAME: log_path.parent.name}
        try:
            for listed in await self._list_containers(selector):
                config = await self._sandbox_config(ports.SandboxId(listed.pod_sandbox_id))
                path = containers.to_log_path(listed.metadata.name, listed.metadata.attempt)
                if pathlib.Path(config.log_directory, path) == log_path:
                    return listed.state != api_pb2.ContainerState.CONTAINER_EXITED
        except ports.NotFoundError:
            return False
        except ports.DriverError as error:
            log.debug("cannot tell whether a log is still written", path=str(log_path), error=str(error))
            return True
        return False

    # ---- parts --------------------------------------------------------------------------------

    async def _sandbox_config(self, sandbox_id: ports.SandboxId) -> api_pb2.PodSandboxConfig:
        if sandbox_id not in self._sandboxes:
            _ = await self._list_sandboxes(labels.OURS)
        try:
            return self._sandboxes[sandbox_id]
        except KeyError as error:
            raise ports.NotFoundError(f"cannot use sandbox {sandbox_id}: it is gone") from error

    async def _image_user(self, image_id: str) -> str:
        if image_id not in self._image_users and await self._image_status(image_id) is None:
            raise ports.ContainerError(
                "CreateContainerError", f"cannot use image {image_id}: it is not on this machine"
            )
        return self._image_users[image_id]

    async def _look(self, call: Callable[..., Any], request: Any, what: str) -> Any:
        return await self._connection.ask(call, request, what=what, timeout_s=self._deadlines.look_s)

    async def _end(
        self, call: Callable[..., Any], request: Any, what: str, *, timeout_s: float = 0.0
    ) -> None:
        """Ending is safe without the thing."""
        try:
            await self._connection.ask(
                call, request, what=what, timeout_s=timeout_s or self._deadlines.remove_s
            )
        except ports.NotFoundError:
            log.debug("already gone", what=what)

    def _forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._pod_uids.pop(key, None)
            self._statuses.pop(key, None)


def _to_auth(auth: ports.RegistryAuth | None) -> api_pb2.AuthConfig | None:
    if auth is None:
        return None
    return api_pb2.AuthConfig(
        username=auth.username, password=auth.password.reveal(), server_address=auth.server
    )


def _make_folder(path: pathlib.Path) -> None:
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ports.DriverError(f"cannot make the log folder {path}: {error.strerror}") from error
