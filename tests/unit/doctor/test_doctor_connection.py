"""One try to reach a host, and one question to a DNS server, against real sockets on loopback."""

import contextlib
import datetime
import http.server
import socket
import ssl
import struct
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from kci.doctor.facts import connection, dns
from kci.doctor.findings import connection as findings
from kci.kit import pki


@contextlib.contextmanager
def serving(context=None, *, ahead_s=0):
    """An HTTP server whose clock is so far ahead."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.end_headers()

        def date_time_string(self, timestamp=None):
            moment = datetime.datetime.now(datetime.UTC).timestamp() + ahead_s
            return super().date_time_string(moment)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(10)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A server's context for 127.0.0.1, and its certificate, which signs itself."""
    key, now = pki.new_key(), datetime.datetime.now(datetime.UTC)
    name = pki.subject("server")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=9))
        .add_extension(pki.alternative_names(["127.0.0.1"]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    file.write_bytes(pem + pki.key_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context, pem.decode()


def test_a_server_is_reached_and_tells_its_time():
    with serving(ahead_s=100) as port:
        seen = connection.try_url(f"http://127.0.0.1:{port}")
    assert seen.obstacle is None
    assert 98 < seen.skew_s < 102
    assert seen.place == f"127.0.0.1:{port}"


def test_a_server_over_tls_is_reached_where_its_certificate_is_accepted(tls):
    context, pem = tls
    with serving(context) as port:
        seen = connection.try_url(f"https://127.0.0.1:{port}", ssl.create_default_context(cadata=pem))
        assert (seen.obstacle, seen.error) == (None, "")
        assert seen.certificate_end is not None
        assert abs(seen.skew_s) < 2
        refused = connection.try_url(f"https://127.0.0.1:{port}")
        assert refused.obstacle is findings.Obstacle.CERTIFICATE
        assert "self-signed" in refused.error
        found = connection.read_certificate("127.0.0.1", port)
        assert pki.server_names(found) == {"127.0.0.1"}


def test_what_stands_in_the_way_is_told():
    with serving() as port:
        assert connection.try_url(f"https://127.0.0.1:{port}").obstacle is findings.Obstacle.TLS
        with pytest.raises(OSError, match=r"SSL|TLS|EOF"):
            connection.read_certificate("127.0.0.1", port)
    assert connection.try_url(f"http://127.0.0.1:{port}").obstacle is findings.Obstacle.REFUSED
    assert connection.read_certificate("127.0.0.1", port) is None


@pytest.fixture
def addresses(monkeypatch):
    """Sets what the name `many` has for addresses."""
    real = socket.getaddrinfo

    def know(*known):
        def find(host, port, *more, **named):
            if host != "many":
                return real(host, port, *more, **named)
            return [found for address in known for found in real(address, port, type=socket.SOCK_STREAM)]

        monkeypatch.setattr(socket, "getaddrinfo", find)

    return know


def test_a_host_is_reached_by_whichever_of_its_addresses_answers(addresses):
    with serving() as port:
        addresses("127.0.0.2", "127.0.0.1")
        seen = connection.try_url(f"http://many:{port}")
        assert (seen.obstacle, seen.place) == (None, f"many:{port}")
        addresses("127.0.0.2", "127.0.0.3")
        assert connection.try_url(f"http://many:{port}").obstacle is findings.Obstacle.REFUSED


def test_addresses_that_are_silent_share_the_time(addresses, monkeypatch):
    monkeypatch.setattr(connection, "CONNECT_S", 0.4)
    with serving() as port, contextlib.ExitStack() as opened:
        opened.enter_context(socket.create_server(("127.0.0.2", port), backlog=0))
        # A backlog of none takes one, which nobody accepts: the next ones are not answered.
        for _ in range(2):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))
        begun = time.monotonic()
        addresses("127.0.0.2")
        assert connection.try_url(f"http://many:{port}").obstacle is findings.Obstacle.SILENT
        addresses("127.0.0.2", "127.0.0.1")
        assert connection.try_url(f"http://many:{port}").obstacle is None
        # One alone would have STEP_S.
        assert time.monotonic() - begun < connection.STEP_S


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("https://a:1", "https://a:1"),
        ("kci.example", "https://kci.example"),
        ("127.0.0.1:80", "http://127.0.0.1:80"),
        ("localhost:80", "http://localhost:80"),
    ],
)
def test_an_endpoint_without_a_scheme_is_what_the_client_takes_it_for(endpoint, url):
    assert connection.url_of(endpoint) == url


@contextlib.contextmanager
def answering(make):
    """A UDP server that answers one question."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)

        def work():
            question, caller = server.recvfrom(512)
            server.sendto(make(question), caller)

        thread = threading.Thread(target=work)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


def test_a_dns_server_is_asked_for_a_name():
    asked = []

    def answer(question):
        asked.append(question)
        return question[:2] + struct.pack(">5H", 0x8183, 1, 2, 0, 0)

    with answering(answer) as port:
        reply = dns.ask("127.0.0.1", "kubernetes.default", port)
    assert (reply.code, reply.answers, reply.problem) == (3, 2, "")
    assert asked[0][12:] == b"\x0akubernetes\x07default\x00\x00\x01\x00\x01"


def test_a_dns_server_that_is_none_or_away_is_a_problem():
    with answering(lambda _: b"hello") as port:
        assert dns.ask("127.0.0.1", "a", port).problem
    assert "refused" in dns.ask("127.0.0.1", "a", port).problem.lower()
