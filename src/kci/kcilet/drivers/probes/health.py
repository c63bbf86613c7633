"""grpc.health.v1.Health/Check, as pkg/probe/grpc of Kubernetes 1.36 does it.

gRPC dials itself, in the namespace of this program. So it dials a socket of our own here, and what it says
there is carried to a connection that was dialled inside the pod's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import uuid

import grpc
from google.protobuf import wrappers_pb2

from kci.kcilet import ports
from kci.kit import tasks

_METHOD = "/grpc.health.v1.Health/Check"
_STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_SERVING = 1
_READ_BYTES = 16 << 10
_CREDENTIALS = struct.Struct("3i")


async def ask(connection: socket.socket, authority: str, service: str) -> ports.CheckResult:
    """What is answered on a connection, which is closed. Without a time limit of its own."""
    with connection, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as ours:
        # Without a file: nothing is left of it. That anybody could dial it is looked at when it is dialled.
        name = f"kci-probe-{uuid.uuid4()}"
        ours.bind(f"\0{name}")
        ours.listen(1)
        options = (
            ("grpc.default_authority", authority),
            ("grpc.primary_user_agent", "kube-probe/1.36"),
            # Else another check would share the connection.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        )
        async with (
            tasks.background("relay", _relay(ours, connection)),
            grpc.aio.insecure_channel(f"unix-abstract:{name}", options=options) as channel,
        ):
            return await _call(channel, service)


async def _call(channel: grpc.aio.Channel, service: str) -> ports.CheckResult:
    # Both messages have one field; on the wire they are what wrapped values are.
    call = channel.unary_unary(
        _METHOD,
        request_serializer=wrappers_pb2.StringValue.SerializeToString,
        response_deserializer=wrappers_pb2.Int32Value.FromString,
    )
    try:
        answer = await call(wrappers_pb2.StringValue(value=service))
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            what = "this server does not implement the grpc health protocol (grpc.health.v1.Health)"
        else:
            what = "health rpc probe failed"
        return ports.CheckResult(False, f"error: {what}: {error.details()}")
    if answer.value == _SERVING:
        return ports.CheckResult(True)
    known = 0 <= answer.value < len(_STATUSES)
    status = _STATUSES[answer.value] if known else str(answer.value)
    return ports.CheckResult(False, f'service unhealthy (responded with "{status}")')


async def _relay(ours: socket.socket, connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        accepted, _ = await loop.sock_accept(ours)
        with accepted:
            if not _is_own(accepted):
                continue
            accepted.setblocking(False)
            # Who ends first ends both: a connection that broke is the call's to tell.
            with contextlib.suppress(OSError):
                await tasks.first_of(_carry(accepted, connection), _carry(connection, accepted), name="carry")
            return


def _is_own(accepted: socket.socket) -> bool:
    pid, _, _ = _CREDENTIALS.unpack(
        accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return bool(pid == os.getpid())


async def _carry(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, _READ_BYTES):
        await loop.sock_sendall(target, data)
