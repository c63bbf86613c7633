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
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def mute_server(tmp_path):
    """The port of a server that answers with one event, and then neither reads nor closes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path / "identity.pem"))
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_once, args=(listener, context, over))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join()


def answer_once(listener, context, over):
    connection, _ = listener.accept()
    with context.wrap_socket(connection, server_side=True) as answered:
        answered.recv(65536)
        answered.sendall(HEAD + b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
        over.wait()


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

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        asyncio.run(watch_one())
        gc.collect()
    assert [str(one.message) for one in caught] == []
