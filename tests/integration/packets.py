"""Packets sent inside a network namespace, byte by byte where need be, and what came of them."""

import json
import subprocess
import sys

PROGRAM = """
import json, os, select, socket, struct, sys, time

def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF

def echo(address, seconds=2.0):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as it:
        number = os.getpid() & 0xFFFF
        body = struct.pack("!BBHHH", 8, 0, 0, number, 1) + b"kci!"
        body = struct.pack("!BBHHH", 8, 0, checksum(body), number, 1) + b"kci!"
        try:
            it.sendto(body, (address, 0))
        except OSError as error:
            return error.strerror
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and select.select([it], [], [], left)[0]:
            answer, (sender, _) = it.recvfrom(2048)
            if sender == address and answer[20] == 0 and struct.unpack("!H", answer[24:26])[0] == number:
                return "answered"
        return "silent"

def connect(address, port, seconds=1.0):
    with socket.socket() as it:
        it.settimeout(seconds)
        try:
            it.connect((address, port))
        except OSError as error:
            return type(error).__name__
        return "connected"

def ask(address, port, seconds=1.0):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as it:
        it.settimeout(seconds)
        try:
            it.connect((address, port))
            it.send(b"kci?")
            return it.recv(16).decode()
        except OSError as error:
            return type(error).__name__
"""


def inside(netns, expression, check=True):
    """The value of a Python expression, worked out in that namespace."""
    done = subprocess.run(
        ["ip", "netns", "exec", netns, sys.executable, "-c", f"{PROGRAM}\nprint(json.dumps({expression}))"],
        capture_output=True, text=True, timeout=60, check=check,
    )  # fmt: skip
    return json.loads(done.stdout)


def pings(netns, address):
    return inside(netns, f"echo({address!r})") == "answered"
