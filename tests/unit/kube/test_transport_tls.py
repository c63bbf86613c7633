"""The client against a TLS server that never says goodbye."""

import asyncio
import contextlib
import datetime
import gc
import socket
import ssl
import threading
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kci.kube import client as clients
from kci.kube import config, resources

EVENT = b'{"type":"ADDED","object":{"metadata":{"name":"a","uid":"u"}}}\n'
# Small beside a TLS handshake here, so that each of its steps is met.
STEP_S = 0.0002
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def mute_server(tmp_path):
    """The port of a server that answers a watch with one event, anything else never, and closes nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path / "identity.pem"))
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as kept:
        thread = threading.Thread(target=answer_all, args=(listener, context, kept))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def answer_all(listener, context, kept):
    # Of the listener it means the end; of a connection that its client gave up.
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError):
                answered = kept.enter_context(context.wrap_socket(connection, server_side=True))
                if b"watch=" in answered.recv(65536):
                    answered.sendall(HEAD + b"%x\r\n%s\r\n" % (len(EVENT), EVENT))


def self_signed(path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mute")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    pem = serialization.Encoding.PEM
    path.write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def test_a_watch_that_is_left_leaves_no_connection_behind(mute_server):
    """A TLS goodbye is not waited for: the loop may end before the server answers it."""

    async def watch_one():
        known = config.ClusterConfig(server=f"https://127.0.0.1:{mute_server}", insecure=True)
        async with clients.Client(known) as client:
            watch = client.watch(resources.CONFIG_MAPS, resource_version="1")
            async with contextlib.aclosing(watch) as events:
                assert (await anext(events)).object.metadata.name == "a"

    assert warnings_of(watch_one()) == []


def test_a_call_that_is_cancelled_leaves_no_connection_behind(mute_server):
    """Before its answer, wherever it is: connecting, shaking hands, waiting."""

    async def cancel_some():
        known = config.ClusterConfig(server=f"https://127.0.0.1:{mute_server}", insecure=True)
        for step in range(40):
            async with clients.Client(known) as client, asyncio.TaskGroup() as group:
                call = group.create_task(client.get(resources.CONFIG_MAPS, "a", namespace="b"))
                await asyncio.sleep(step * STEP_S)
                call.cancel()

    assert warnings_of(cancel_some()) == []


def warnings_of(work):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        asyncio.run(work)
        gc.collect()
    return [str(one.message) for one in caught]
