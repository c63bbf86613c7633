"""The gRPC connection to the runtime: a deadline on every call, and errors in our words."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import grpc

from kci.kcilet import ports
from kci.kcilet.drivers.runtime.api import api_pb2_grpc
from kci.kit import observing

T = TypeVar("T")

_MAX_MESSAGE_BYTES = 16 << 20
# What a runtime says may hold a whole command line; an event or status takes about this much.
_MAX_DETAILS = 1024
# A call whose caller died is undone by the runtime, which keeps the name until then. It has no code for that.
_UNDER_WAY = ("is reserved for", "is already in starting state")
# Of a start that was cut off: the runtime lost sight of what it had started.
_HAS_LOST_TASK = "cannot delete running task"
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # A runtime that was restarted is back within a second; gRPC's own delays grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclasses.dataclass(frozen=True)
class Deadlines:
    """How long each kind of call may take, in seconds."""

    look_s: float = 10.0
    # Making a sandbox includes the network and, the first time, the pause image.
    make_s: float = 120.0
    # On top of the grace period that a container is given.
    stop_s: float = 30.0
    remove_s: float = 60.0
    # The runtime itself ends a pull that stands still.
    pull_s: float = 3600.0


class LostTaskError(ports.DriverError):
    """Something runs in it that the runtime knows nothing of, and will not end."""


class DeadlineError(ports.UnavailableError):
    """No answer in time."""


class UnimplementedError(ports.DriverError):
    """The runtime lacks the call."""


class Connection:
    """Opened in the event loop that uses it."""

    def __init__(self, socket_path: str, *, on_call: observing.OnCall = observing.no_call) -> None:
        self._on_call = on_call
        self._socket_path = socket_path
        self._channel = grpc.aio.insecure_channel(f"unix://{socket_path}", options=_OPTIONS)
        # The generated classes have no types.
        self.runtime: Any = api_pb2_grpc.RuntimeServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self.images: Any = api_pb2_grpc.ImageServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        await self._channel.close()

    async def ask(self, call: Callable[..., Any], request: Any, *, what: str, timeout_s: float) -> Any:
        """One answer. Raises DriverError or one of its kinds: "cannot <what>: …"."""
        # The call's own name: each has a request type of its own.
        name = type(request).__name__.removesuffix("Request")
        with (
            observing.told(self._on_call, name),
            observing.step(
                name, kind=observing.Kind.CLIENT, attributes={"rpc.system": "grpc", "rpc.method": name}
            ),
        ):
            try:
                return await call(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                raise self._to_error(error, what, timeout_s) from error

    async def stream(self, call: Callable[..., Any], request: Any, *, what: str) -> AsyncGenerator[Any, None]:
        """Endless answers: silence is normal, so there is no deadline. To be closed."""
        answers = call(request)
        try:
            async for answer in answers:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise self._to_error(error, what, 0) from error
        finally:
            answers.cancel()

    def _to_error(self, error: grpc.aio.AioRpcError, what: str, timeout_s: float) -> ports.DriverError:
        details = (error.details() or "")[:_MAX_DETAILS]
        match error.code():
            case grpc.StatusCode.NOT_FOUND:
                return ports.NotFoundError(f"cannot {what}: {details}")
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return DeadlineError(f"cannot {what} within {timeout_s:g} s: the runtime does not answer")
            case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED | grpc.StatusCode.ABORTED:
                return ports.UnavailableError(
                    f"cannot {what}: the runtime at {self._socket_path} does not answer; is it running?"
                )
            case grpc.StatusCode.UNIMPLEMENTED:
                return UnimplementedError(f"cannot {what}: this runtime does not support it")
            case _ if any(words in details for words in _UNDER_WAY):
                return ports.UnavailableError(
                    f"cannot {what} yet: the runtime has not done with an earlier try"
                )
            case _ if _HAS_LOST_TASK in details:
                return LostTaskError(f"cannot {what}: {details}")
            case _:
                return ports.DriverError(f"cannot {what}: {details}")
