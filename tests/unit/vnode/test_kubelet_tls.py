"""What the kubelet API is served with, while it comes late and changes."""

import asyncio
import contextlib
import socket
import ssl

import aiohttp
import pytest
from fakes import kubelet_api, kubelet_peers

from kci.kit import errors
from kci.vnode import kubelet_tls


@pytest.fixture
def authority(tmp_path):
    return kubelet_peers.Authority(tmp_path / "pki")


async def status(api, context):
    """Of a request with these certificates; an error's text if TLS did not come about."""
    async with aiohttp.ClientSession(api.url, connector=aiohttp.TCPConnector(ssl=context)) as session:
        try:
            async with session.get("/healthz") as response:
                return response.status
        except aiohttp.ClientError as error:
            return repr(error)


async def test_a_new_client_ca_counts_from_the_next_connection_and_the_former_no_more(authority, tmp_path):
    others = kubelet_peers.Authority(tmp_path / "others")
    async with kubelet_api.running(authority) as api:
        ours, theirs = api.context("admin"), others.client_context(others.issue("admin"))
        theirs.load_verify_locations(cafile=str(authority.ca_file))
        assert await status(api, ours) == 200
        assert await status(api, theirs) != 200
        async with api.admin() as open_session:
            async with open_session.get("/healthz") as response:
                assert response.status == 200
            api.tls.use_client_ca(others.ca_file.read_text())
            # The same context, which would resume its session if it could.
            assert await status(api, ours) != 200
            assert await status(api, theirs) == 200
            async with open_session.get("/healthz") as response:
                assert response.status == 200


def visit(port, context, session=None):
    """A request by a client that would resume a session: the session, and whether it was."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1", session=session) as secured,
    ):
        secured.sendall(b"GET /healthz HTTP/1.1\r\nHost: vn\r\n\r\n")
        return secured.recv(12), secured.session, secured.session_reused


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_session_outlives_the_ca_that_its_client_came_by(authority, tmp_path, version):
    others = kubelet_peers.Authority(tmp_path / "others")
    async with kubelet_api.running(authority) as api:
        port, context = int(api.url.rpartition(":")[2]), api.context("admin")
        context.maximum_version = version
        answer, session, _ = await asyncio.to_thread(visit, port, context)
        assert answer == b"HTTP/1.1 200"
        assert (await asyncio.to_thread(visit, port, context, session))[2] is False
        api.tls.use_client_ca(others.ca_file.read_text())
        with contextlib.suppress(OSError):
            assert (await asyncio.to_thread(visit, port, context, session))[0] == b""


async def test_a_renewed_certificate_is_shown_from_the_next_connection(authority):
    async with kubelet_api.running(authority) as api:

        async def shown():
            port = int(api.url.rpartition(":")[2])
            async with asyncio.timeout(10):
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=api.context("admin"))
                certificate = writer.get_extra_info("ssl_object").getpeercert()
                writer.transport.abort()
            return certificate["subject"]

        assert "vn" in str(await shown())
        certificate, key = authority.issue("renewed", server_names=("127.0.0.1",), client=False)
        api.tls.use_certificate(certificate.read_bytes(), key.read_bytes())
        assert "renewed" in str(await shown())


@pytest.mark.parametrize("first", ["certificate", "client CA"])
async def test_until_both_are_there_no_handshake_succeeds(authority, first):
    certificate, key = authority.issue("vn", server_names=("127.0.0.1",), client=False)
    tls = kubelet_tls.Tls()

    def give(what):
        if what == "certificate":
            tls.use_certificate(certificate.read_bytes(), key.read_bytes())
        else:
            tls.use_client_ca(authority.ca_file.read_text())

    async with kubelet_api.running(authority, tls=tls) as api:
        assert await status(api, api.context("admin")) != 200
        give(first)
        assert not tls.is_complete
        assert await status(api, api.context("admin")) != 200
        give("certificate" if first == "client CA" else "client CA")
        assert await status(api, api.context("admin")) == 200


def test_what_is_no_certificate_changes_nothing(authority, tmp_path):
    certificate, key = authority.issue("vn", server_names=("127.0.0.1",), client=False)
    tls = kubelet_tls.Tls()
    kubelet_tls.load_certificate(tls, certificate, key)
    kubelet_tls.load_client_ca(tls, authority.ca_file)
    with pytest.raises(ValueError, match="client CA"):
        tls.use_client_ca("none")
    with pytest.raises((ValueError, ssl.SSLError)):
        tls.use_certificate(b"none", key.read_bytes())
    assert tls.is_complete


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_file_that_is_missing_is_named(authority, tmp_path, missing):
    certificate, key = authority.issue("vn", server_names=("127.0.0.1",))
    files = [authority.ca_file, certificate, key]
    files[missing] = tmp_path / "absent"
    tls = kubelet_tls.Tls()
    with pytest.raises(errors.UserError, match=r"cannot serve the kubelet API .*absent"):
        kubelet_tls.load_client_ca(tls, files[0])
        kubelet_tls.load_certificate(tls, *files[1:])
