"""The service's settings: read once from flags and the files they name, checked together, frozen."""

from __future__ import annotations

import argparse
import base64
import binascii
import dataclasses
import ipaddress
import pathlib
import uuid
from collections.abc import Callable, Sequence
from typing import TypeVar

from kci.contract import ids, packages, signing
from kci.contract import networks as api
from kci.kit import errors, logs, metrics, secret
from kci.service.app import accounts
from kci.service.domain import addresses, groups, networks
from kci.service.store import sealing

T = TypeVar("T")

_ACCESS_KEY = "KCI_ACCESS_KEY"
_SECRET_KEY = "KCI_SECRET_KEY"  # noqa: S105  (a name, no secret)
_MAX_FILE_BYTES = 64 * 1024
# As the widest of those who verify such signatures; each captured request is good for twice as long.
_MAX_SKEW_S = 900


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What can change the service's behaviour; each option's meaning stands in `make_parser`."""

    host: str
    port: int
    database: pathlib.Path
    kcilet_socket: pathlib.Path
    place: groups.Place
    # Made into rows at the start; the operator's.
    network: networks.Configured
    operator: accounts.Account
    encryption_key: bytes = dataclasses.field(repr=False)
    signature_skew_s: int
    stream_idle_s: int
    log_level: str
    # [host]:port; empty: metrics are not served.
    metrics_address: str = ""


def read(arguments: Sequence[str] | None = None) -> Settings:
    """Raises SettingsError that names everything that is wrong."""
    given = make_parser().parse_args(arguments)
    problems: list[str] = []

    def attempt(read_one: Callable[[], T]) -> T | None:
        try:
            return read_one()
        except (ValueError, OSError, errors.UserError) as error:
            problems.append(str(error))
            return None

    if wrong := metrics.check_address(given.metrics_listen):
        problems.append(f"--metrics-listen {wrong}")
    listen = attempt(lambda: _read_listen(given.listen))
    subnet = attempt(lambda: _read_subnet(given.subnet_id, given.subnet_cidr, given.gateway))
    security_groups = attempt(
        lambda: [_read_uuid(value, "--security-group-id") for value in given.security_group_id]
    )
    reserved = attempt(lambda: tuple(_read_reserved(text) for text in given.reserved_cidr))
    mtu = attempt(lambda: _read_mtu(given.mtu))
    operator = attempt(lambda: _read_operator(given.operator_credentials))
    key = attempt(lambda: _read_key(given.encryption_key_file))
    skew_s = attempt(lambda: _read_skew(given.signature_skew_s))
    table = attempt(lambda: _read_table(given.packages))
    if problems or not (skew_s and listen and subnet and security_groups and operator and key and table):
        raise errors.SettingsError(problems)
    return Settings(
        host=listen[0],
        port=listen[1],
        database=given.database,
        kcilet_socket=given.kcilet_socket,
        place=groups.Place(
            region=given.region,
            zone=given.zone or f"{given.region}a",
            table=table,
            reserved=reserved or (),
            mtu=mtu or 0,
        ),
        network=networks.Configured(
            tenant_id=operator.tenant_id,
            subnet=subnet,
            security_group_ids=tuple(ids.SecurityGroupId(value) for value in dict.fromkeys(security_groups)),
        ),
        operator=operator,
        encryption_key=key,
        signature_skew_s=skew_s,
        stream_idle_s=given.stream_idle_s,
        log_level=given.log_level,
        metrics_address=given.metrics_listen,
    )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kci serve", description="The KCI service.", allow_abbrev=False)
    add = parser.add_argument
    add("--listen", default="127.0.0.1:7480", metavar="HOST:PORT", help="where the API answers (HTTP)")
    add(
        "--metrics-listen",
        default="",
        metavar="[HOST]:PORT",
        help="where the program's own metrics are served (HTTP, at /metrics, to everybody who can connect);"
        " default: nowhere",
    )
    add(
        "--database",
        type=pathlib.Path,
        required=True,
        metavar="FILE",
        help="the SQLite file; made if it never was",
    )
    add("--region", default="cn-beijing-6", help="the region that requests must be signed for")
    add("--zone", default="", help="the zone that answers name; default the region and 'a'")
    add("--kcilet-socket", type=pathlib.Path, required=True, metavar="PATH", help="where the kcilet listens")
    add(
        "--subnet-id", required=True, metavar="UUID", help="the operator's first subnet; made if it never was"
    )
    add("--subnet-cidr", required=True, metavar="CIDR", help="its addresses (IPv4)")
    add("--gateway", required=True, metavar="IP", help="its gateway, one of its addresses")
    add(
        "--security-group-id",
        required=True,
        action="append",
        metavar="UUID",
        help="a security group of that subnet's VPC; made if it never was; may be repeated",
    )
    add(
        "--reserved-cidr",
        default=[],
        action="append",
        metavar="CIDR",
        help="addresses that no subnet may have, such as those of services; may be repeated",
    )
    add(
        "--mtu",
        type=int,
        default=0,
        metavar="BYTES",
        help="the largest packet of a group's interface, unless its subnet says; default 0, as the machine's"
        " links have it",
    )
    add(
        "--packages",
        type=pathlib.Path,
        metavar="FILE",
        help="the sizes that there are, in JSON as DescribeKciPackages answers; default: the table of the"
        " documentation, which `kci packages` shows",
    )
    add(
        "--operator-credentials",
        type=pathlib.Path,
        required=True,
        metavar="FILE",
        help=f"the operator's key pair: lines {_ACCESS_KEY}=… and {_SECRET_KEY}=…, mode 0600",
    )
    add(
        "--encryption-key-file",
        type=pathlib.Path,
        required=True,
        metavar="FILE",
        help="32 bytes, raw or as base64 or hexadecimal text, mode 0600: seals secrets in the database",
    )
    add(
        "--signature-skew-s",
        type=int,
        default=signing.DEFAULT_SKEW_S,
        metavar="SECONDS",
        help=f"how far a request's time may be from the clock, at most {_MAX_SKEW_S};"
        f" default {signing.DEFAULT_SKEW_S}, as AWS has it",
    )
    add(
        "--stream-idle-s",
        type=int,
        default=14400,
        metavar="SECONDS",
        help="how long a command's, an attachment's or a port's stream may stand still before it is closed;"
        " default 4 hours, as a kubelet has it",
    )
    add("--log-level", choices=logs.LEVELS, default="info")
    return parser


def _read_listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"--listen: cannot use {text!r}; write HOST:PORT, such as 127.0.0.1:7480")
    return host.strip("[]"), int(port)


def _read_skew(skew_s: int) -> int:
    if not 1 <= skew_s <= _MAX_SKEW_S:
        raise ValueError(f"--signature-skew-s: cannot use {skew_s}; give 1 to {_MAX_SKEW_S} seconds")
    return skew_s


def _read_subnet(subnet_id: str, cidr: str, gateway: str) -> addresses.Subnet:
    try:
        network = ipaddress.IPv4Network(cidr)
    except ValueError as error:
        raise ValueError(f"--subnet-cidr: {error}; write it as 10.64.0.0/20") from error
    if not 8 <= network.prefixlen <= 29:
        raise ValueError(f"--subnet-cidr: cannot use {cidr}; its length must be /8 to /29")
    try:
        address = ipaddress.IPv4Address(gateway)
    except ValueError as error:
        raise ValueError(f"--gateway: {error}") from error
    if address not in network or address in {network.network_address, network.broadcast_address}:
        raise ValueError(f"--gateway: cannot use {gateway}; it is no host's address in {cidr}")
    return addresses.Subnet(ids.SubnetId(_read_uuid(subnet_id, "--subnet-id")), network, address)


def _read_reserved(text: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        raise ValueError(f"--reserved-cidr: {error}; write it as 10.152.0.0/16") from error


def _read_mtu(mtu: int) -> int:
    if mtu and not api.MIN_MTU <= mtu <= api.MAX_MTU:
        raise ValueError(f"--mtu: cannot use {mtu}; give {api.MIN_MTU} to {api.MAX_MTU}, or 0")
    return mtu


def _read_uuid(text: str, name: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise ValueError(f"{name}: {text!r} is no UUID") from error


def _read_table(path: pathlib.Path | None) -> packages.Table:
    return packages.STANDARD if path is None else packages.read_table(path.read_bytes(), str(path))


def _read_operator(path: pathlib.Path) -> accounts.Account:
    found: dict[str, str] = {}
    for line in _read_private(path, "--operator-credentials").decode("utf-8", "replace").splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            found[name.strip()] = value.strip().strip("'\"")
    if not found.get(_ACCESS_KEY) or not found.get(_SECRET_KEY):
        raise ValueError(
            f"--operator-credentials: {path} must have the lines {_ACCESS_KEY}=… and {_SECRET_KEY}=…"
        )
    return accounts.Account(
        tenant_id=accounts.OPERATOR,
        access_key=found[_ACCESS_KEY],
        secret_key=secret.Secret(found[_SECRET_KEY]),
    )


def _read_key(path: pathlib.Path) -> bytes:
    content = _read_private(path, "--encryption-key-file")
    if len(content) == sealing.KEY_BYTES:
        return content
    text = content.strip()
    for decode in (binascii.unhexlify, _decode_base64):
        try:
            key = decode(text)
        except (binascii.Error, ValueError):
            continue
        if len(key) == sealing.KEY_BYTES:
            return key
    raise ValueError(
        f"--encryption-key-file: {path} is no key of {sealing.KEY_BYTES} bytes (raw, base64 or hexadecimal)"
    )


def _decode_base64(text: bytes) -> bytes:
    """Either alphabet."""
    return base64.b64decode(text.translate(bytes.maketrans(b"-_", b"+/")), validate=True)


def _read_private(path: pathlib.Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode
            content = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise ValueError(f"{name}: cannot read {path}: {error.strerror}") from error
    if mode & 0o077:
        raise ValueError(f"{name}: others can read {path}; run: chmod 600 {path}")
    return content
