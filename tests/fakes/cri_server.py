"""A CRI server without a runtime: sandboxes and containers are what a test puts in.

What is not written here answers UNIMPLEMENTED, as an old runtime does.
"""

import collections
import contextlib

import grpc

from kci.kcilet.drivers.runtime import labels
from kci.kcilet.drivers.runtime.api import api_pb2, api_pb2_grpc

EXITED = api_pb2.ContainerState.CONTAINER_EXITED
RUNNING = api_pb2.ContainerState.CONTAINER_RUNNING


class CriServer(api_pb2_grpc.RuntimeServiceServicer, api_pb2_grpc.ImageServiceServicer):
    def __init__(self):
        self.sandboxes = {}
        self.containers = {}
        self.calls = collections.Counter()
        self.after_a_look = lambda: None
        # What those who follow the events are told; None: there are no events here.
        self.events = None
        # Registry users that may pull, and who has tried.
        self.allowed = {""}
        self.tried = []

    def add_pod(self, uid, *, state=RUNNING):
        """A pod with one sandbox and one container of the same name as the pod."""
        own = {**labels.OURS, labels.POD_UID: uid}
        self.sandboxes[uid] = api_pb2.PodSandbox(
            id=f"sandbox-{uid}",
            metadata=api_pb2.PodSandboxMetadata(name=uid, namespace="default", uid=uid),
            labels=own,
        )
        self.containers[uid] = api_pb2.Container(
            id=f"container-{uid}",
            pod_sandbox_id=f"sandbox-{uid}",
            metadata=api_pb2.ContainerMetadata(name="main"),
            labels={**own, labels.CONTAINER_NAME: "main"},
            state=state,
        )

    async def ListPodSandbox(self, request, context):  # noqa: N802
        found = [one for one in self.sandboxes.values() if _fits(one, request)]
        return api_pb2.ListPodSandboxResponse(items=found)

    async def ListContainers(self, request, context):  # noqa: N802
        found = [one for one in self.containers.values() if _fits(one, request)]
        answer = api_pb2.ListContainersResponse(containers=found)
        self.after_a_look()
        return answer

    async def ContainerStatus(self, request, context):  # noqa: N802
        self.calls["ContainerStatus"] += 1
        found = next(one for one in self.containers.values() if one.id == request.container_id)
        status = api_pb2.ContainerStatus(id=found.id, state=found.state, exit_code=3, started_at=5)
        return api_pb2.ContainerStatusResponse(status=status)

    async def PodSandboxStatus(self, request, context):  # noqa: N802
        self.calls["PodSandboxStatus"] += 1
        network = api_pb2.PodSandboxNetworkStatus(ip="10.0.0.7")
        return api_pb2.PodSandboxStatusResponse(status=api_pb2.PodSandboxStatus(network=network))

    async def GetContainerEvents(self, request, context):  # noqa: N802
        if self.events is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no events")
        for event in self.events:
            yield event

    async def StopContainer(self, request, context):  # noqa: N802
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such container")

    async def StartContainer(self, request, context):  # noqa: N802
        await context.abort(grpc.StatusCode.UNKNOWN, "exec: no such file")

    async def ImageStatus(self, request, context):  # noqa: N802
        if not request.image.image.startswith("sha256:"):
            return api_pb2.ImageStatusResponse()
        image = api_pb2.Image(id=request.image.image, username="web", size=7)
        return api_pb2.ImageStatusResponse(image=image)

    async def PullImage(self, request, context):  # noqa: N802
        self.tried.append(request.auth.username)
        if request.auth.username not in self.allowed:
            await context.abort(grpc.StatusCode.UNKNOWN, "pull access denied")
        return api_pb2.PullImageResponse(image_ref="sha256:1")


@contextlib.asynccontextmanager
async def serving(fake, socket):
    server = grpc.aio.server()
    api_pb2_grpc.add_RuntimeServiceServicer_to_server(fake, server)
    api_pb2_grpc.add_ImageServiceServicer_to_server(fake, server)
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(grace=None)


def _fits(one, request):
    return all(one.labels.get(key) == value for key, value in request.filter.label_selector.items())
