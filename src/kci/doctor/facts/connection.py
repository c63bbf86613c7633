"""One try to reach a host: name, connection, TLS, and the time that an HTTP server there says it has."""

from __future__ import annotations

import datetime
import email.utils
import errno
import http.client
import ipaddress
import socket
import ssl
import time
import urllib.parse
from collections.abc import Sequence

from cryptography import x509

from kci.doctor.findings import connection as findings

STEP_S = 4.0
# For all addresses of a name together.
CONNECT_S = 8.0
_SHORTEST_S = 0.1
_NO_WAY = {errno.EHOSTUNREACH, errno.ENETUNREACH}


def try_url(url: str, context: ssl.SSLContext | None = None, server_name: str = "") -> findings.Connection:
    """`context` for https; its authorities are the machine's unless given. Blocking, a few STEP_S at most."""
    parts = urllib.parse.urlsplit(url)
    is_tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)
    place = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        # deadline: the question's, which is asked in a thread that nobody waits for.
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return findings.Connection(place=place, obstacle=findings.Obstacle.NAME, error=str(error))
    try:
        opened = _connect([str(one[4][0]) for one in addresses], port)
    except OSError as error:
        return findings.Connection(place=place, obstacle=_obstacle(error), error=error.strerror or "")
    with opened:
        if not is_tls:
            return findings.Connection(place=place, skew_s=_skew_s(opened, host))
        try:
            with (context or ssl.create_default_context()).wrap_socket(
                opened, server_hostname=server_name or host
            ) as secured:
                end = _end(secured.getpeercert(binary_form=True))
                skew_s = _skew_s(secured, host)
                return findings.Connection(place=place, certificate_end=end, skew_s=skew_s)
        except ssl.SSLCertVerificationError as error:
            return findings.Connection(
                place=place, obstacle=findings.Obstacle.CERTIFICATE, error=error.verify_message
            )
        except (ssl.SSLError, OSError) as error:
            return findings.Connection(place=place, obstacle=findings.Obstacle.TLS, error=str(error))


def _connect(addresses: Sequence[str], port: int) -> socket.socket:
    """To the first that answers, as a client does; each has its share of the time. OSError if none does."""
    failures: list[OSError] = []
    end = time.monotonic() + CONNECT_S
    for tried, address in enumerate(addresses):
        share_s = max((end - time.monotonic()) / (len(addresses) - tried), _SHORTEST_S)
        try:
            # deadline: it has one.
            opened = socket.create_connection((address, port), min(share_s, STEP_S))
        except OSError as error:
            failures.append(error)
        else:
            opened.settimeout(STEP_S)
            return opened
    # A machine without IPv6 has no way to half of them: what became of the others tells more.
    raise next((one for one in failures if one.errno not in _NO_WAY), failures[0])


def resolve(url: str) -> None:
    """OSError if the host of a URL has no address. Blocking: where a resolver hangs, here and not later, in a
    thread that is waited for.
    """
    parts = urllib.parse.urlsplit(url)
    # deadline: the question's, which is asked in a thread that nobody waits for.
    _ = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)


def read_certificate(host: str, port: int) -> x509.Certificate | None:
    """What a TLS server there serves with, whoever signed it; None if it is not reached. Blocking.
    OSError if it is and does not speak TLS.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        # deadline: it has one.
        opened = socket.create_connection((host, port), STEP_S)
    except OSError:
        return None
    with opened, context.wrap_socket(opened, server_hostname=host) as secured:
        content = secured.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(content) if content else None


def url_of(endpoint: str) -> str:
    """As the client has it: without a scheme https, on loopback http."""
    if "://" in endpoint:
        return endpoint
    host = urllib.parse.urlsplit(f"//{endpoint}").hostname or ""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    return f"{'http' if is_loopback else 'https'}://{endpoint}"


def _obstacle(error: OSError) -> findings.Obstacle:
    if isinstance(error, TimeoutError):
        return findings.Obstacle.SILENT
    return findings.Obstacle.NO_WAY if error.errno in _NO_WAY else findings.Obstacle.REFUSED


def _end(content: bytes | None) -> datetime.datetime | None:
    return x509.load_der_x509_certificate(content).not_valid_after_utc if content else None


def _skew_s(opened: socket.socket, host: str) -> float | None:
    """Whatever it answers, it dates its answer, in whole seconds."""
    opened.settimeout(STEP_S)
    asked = http.client.HTTPConnection(host, timeout=STEP_S)
    asked.sock = opened
    begun = datetime.datetime.now(datetime.UTC)
    try:
        asked.request("GET", "/", headers={"Connection": "close"})
        date = asked.getresponse().getheader("Date")
        told = email.utils.parsedate_to_datetime(date) if date else None
    except (OSError, http.client.HTTPException, ValueError, TypeError):
        return None
    if told is None:
        return None
    took = datetime.datetime.now(datetime.UTC) - begun
    # Its second is cut off: half of one on average.
    return (told + datetime.timedelta(seconds=0.5) - begun - took / 2).total_seconds()
