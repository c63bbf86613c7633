"""Doubles around the kubelet API: an API server that judges, and a provider with streams."""

import asyncio
import dataclasses
import datetime
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kci.kit import channels
from kci.kube import access, errors
from kci.stack import certificates
from kci.vnode import provider

TOKENS = {"good": "reader", "admin": "admin", "stranger": "stranger"}
# Who may do what: (user, verb, subresource).
ALLOWED = {
    ("admin", "create", "proxy"),
    ("admin", "get", "proxy"),
    ("reader", "get", "proxy"),
    ("fine", "get", "pods"),
    # As metrics-server.
    ("watcher", "get", "stats"),
    ("watcher", "get", "metrics"),
}


class Reviewer:
    """auth.Reviewer; counts its questions, and can go away."""

    def __init__(self):
        self.allowed = set(ALLOWED)
        self.asked = []
        self.away = False

    async def review_token(self, token):
        self._answer("token")
        name = TOKENS.get(token.reveal())
        return access.User(name=name, groups=("system:authenticated",)) if name else None

    async def review_access(self, user, attributes):
        self._answer((user.name, attributes.verb, attributes.subresource))
        assert (attributes.resource, attributes.name) == ("nodes", "vn")
        return (user.name, attributes.verb, attributes.subresource) in self.allowed

    def _answer(self, question):
        self.asked.append(question)
        if self.away:
            raise errors.UnreachableError("cannot reach the API server")


class Streams:
    """All of the provider's stream protocols; `exec` holds what the last exec's provider side saw."""

    def __init__(self):
        self.chunks = [b"one\n", b"two\n"]
        self.log_error = self.exec_error = self.port_error = None
        self.execs, self.ports = [], []
        self.endless = False
        self.options = self.target = None
        self.closed = asyncio.Event()
        self.exec = None

    async def open_log(self, target, options, *, has_ended):
        self.target, self.options, self.has_ended = target, options, has_ended
        if self.log_error:
            raise self.log_error
        return self._log()

    async def _log(self):
        try:
            for chunk in self.chunks:
                yield chunk
            if self.endless:
                await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def open_exec(self, target, options):
        self.target, self.options = target, options
        if self.exec_error:
            raise self.exec_error
        self.exec = Exec(self.closed)
        self.execs.append(self.exec)
        return self.exec

    async def open_attach(self, target, options):
        return await self.open_exec(target, options)

    async def open_port(self, target, port):
        self.target = target
        if self.port_error:
            raise self.port_error
        connection = SlowPort(port) if port == 5 else Port(port)
        self.ports.append(connection)
        return connection


class Usage:
    """provider.UsageProvider: `found` is what pods use, or an error; `reads` counts."""

    def __init__(self):
        self.found = ()
        self.reads = 0

    async def read_usage(self):
        self.reads += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Exec:
    """A command that repeats its input and ends with 3 when its input is closed, or told to."""

    def __init__(self, closed):
        self.seen = []
        self.is_gone = False
        self.refused = asyncio.Event()
        self.is_stuck = False
        self.closed = asyncio.Event()
        self._out = asyncio.Queue()
        self._closed_too = closed

    async def send(self, message):
        if self.is_gone:
            self.refused.set()
            raise ConnectionResetError("cannot write to a closing transport")
        if self.is_stuck:
            await asyncio.Event().wait()
        self.seen.append(message)
        channel, data = channels.parse(message)
        if channel is channels.Channel.STDIN and data == b"exit":
            self.end()
        elif channel is channels.Channel.STDIN:
            self._out.put_nowait(channels.frame(channels.Channel.STDOUT, data))
        elif channel is channels.Channel.CLOSE:
            self.end()

    def end(self):
        self._out.put_nowait(channels.close_frame(channels.Channel.STDOUT))
        self._out.put_nowait(channels.frame(channels.Channel.STATUS, channels.exit_status(3)))
        self._out.put_nowait(None)

    def break_off(self):
        self._out.put_nowait(None)

    async def receive(self):
        return await self._out.get()

    async def close(self):
        self.closed.set()
        self._closed_too.set()


class Port:
    """A connection to a pod that repeats what it hears and closes when the client does.

    By its number it refuses (7), breaks at once (6) or after its first word (8), or reads nothing (9).
    """

    def __init__(self, number):
        self.number = number
        self.stalled = asyncio.Event()
        self.is_stalling = number == 9
        self.closed = asyncio.Event()
        self.heard = 0
        self._out = asyncio.Queue(64)
        if number == 7:
            self._fail("connection refused")
        else:
            self._out.put_nowait(channels.frame(channels.Channel.STDOUT))
        if number == 6:
            self._fail("connection reset by peer")

    async def send(self, message):
        if self.is_stalling:
            self.stalled.set()
            await asyncio.Event().wait()
        if self.closed.is_set():
            raise ConnectionResetError("cannot write to a closing transport")
        channel, data = channels.parse(message)
        if channel is channels.Channel.STDIN:
            self.heard += len(data)
            await self._out.put(channels.frame(channels.Channel.STDOUT, data))
            if self.number == 8:
                self._fail("connection reset by peer")
        elif channel is channels.Channel.CLOSE:
            await self._out.put(channels.close_frame(channels.Channel.STDOUT))
            await self._out.put(None)

    def _fail(self, text):
        self._out.put_nowait(channels.frame(channels.Channel.STATUS, channels.error_status(text)))
        self._out.put_nowait(None)

    async def receive(self):
        return await self._out.get()

    async def close(self):
        self.closed.set()


class SlowPort:
    """A connection to a pod that closes its own direction at once and takes what comes bit by bit. What is
    still on its way when the connection is closed is lost.
    """

    def __init__(self, number):
        self.number = number
        self.closed = asyncio.Event()
        self.arrived = bytearray()
        # Nothing arrives before.
        self.takes = asyncio.Event()
        self._out = asyncio.Queue()
        self._out.put_nowait(channels.frame(channels.Channel.STDOUT))
        self._out.put_nowait(channels.close_frame(channels.Channel.STDOUT))
        self._on_its_way = asyncio.Queue()

    async def send(self, message):
        if self.closed.is_set():
            raise ConnectionResetError("cannot write to a closing transport")
        self._on_its_way.put_nowait(channels.parse(message))

    async def receive(self):
        if not self._out.empty():
            return self._out.get_nowait()
        await self.takes.wait()
        while not self.closed.is_set():
            channel, data = await self._on_its_way.get()
            if channel is channels.Channel.CLOSE:
                return None
            await asyncio.sleep(0)
            self.arrived += data
        return None

    async def close(self):
        self.closed.set()


@dataclasses.dataclass
class Pods:
    objects: dict
    instances: dict

    def all(self):
        return self.objects

    def instance_of(self, uid):
        return self.instances.get(uid)


def instance(uid):
    return provider.Instance(provider.InstanceId("i1"), uid, provider.Phase.RUNNING)


class Authority:
    """A CA in a folder, and identities of it."""

    def __init__(self, folder, name="ca"):
        self.folder = folder
        self._now = datetime.datetime.now(datetime.UTC)
        certificates.ensure(folder, [], self._now)
        pem = certificates.certificate_path(folder, name).read_bytes()
        key = certificates.load_key(certificates.key_path(folder, name).read_bytes())
        self._issuer = certificates.Issuer(x509.load_pem_x509_certificate(pem), key)
        self.ca_file = certificates.certificate_path(folder, name)

    def issue(self, name, organization="", *, server_names=(), client=True):
        """Paths of a certificate and its key."""
        leaf = certificates.Leaf(name, "ca", name, organization, server_names=server_names, client=client)
        issued = certificates.issue(leaf, self._issuer, self._now)
        certificate, key = self.folder / f"{name}.leaf.crt", self.folder / f"{name}.leaf.key"
        certificate.write_bytes(issued.certificate.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(certificates.key_pem(issued.key))
        return certificate, key

    def client_context(self, certificate_and_key=None):
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if certificate_and_key:
            context.load_cert_chain(*certificate_and_key)
        return context
