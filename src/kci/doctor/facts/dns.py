"""One question to a DNS server, by UDP (RFC 1035)."""

from __future__ import annotations

import secrets
import socket
import struct

from kci.doctor.findings import dns as findings

PORT = 53
TIMEOUT_S, TRIES = 1.5, 2
_HEADER = struct.Struct(">6H")
_RECURSION = 0x0100
_A, _INTERNET = 1, 1
_CODE = 0x000F


def ask(address: str, name: str, port: int = PORT) -> findings.Reply:
    """For the IPv4 address of a name. Blocking, three seconds at most."""
    number = secrets.randbelow(2**16)
    question = b"".join(bytes([len(part)]) + part.encode("ascii") for part in name.split(".")) + b"\0"
    packet = _HEADER.pack(number, _RECURSION, 1, 0, 0, 0) + question + struct.pack(">2H", _A, _INTERNET)
    problem = ""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asked:
        asked.settimeout(TIMEOUT_S)
        for _ in range(TRIES):
            try:
                asked.connect((address, port))
                asked.send(packet)
                got = asked.recv(4096)
            except OSError as error:
                problem = (
                    "no answer in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
                )
                continue
            if len(got) >= _HEADER.size:
                told, flags, _, answers, _, _ = _HEADER.unpack_from(got)
                if told == number:
                    return findings.Reply(address, flags & _CODE, answers)
            problem = "what it answers is no DNS"
    return findings.Reply(address, problem=problem)
