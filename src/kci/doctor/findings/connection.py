"""Whether something is reached at an address, and what stands in the way. Pure."""

from __future__ import annotations

import dataclasses
import datetime
import enum

from kci.contract import signing
from kci.doctor.findings import finding

EXPIRES_SOON = datetime.timedelta(days=14)
SKEW_S = signing.DEFAULT_SKEW_S
SKEW_NOTED_S = 30.0


class Obstacle(enum.Enum):
    """The first step of a connection that failed."""

    NAME = "its name has no address"
    REFUSED = "nobody listens there"
    SILENT = "nothing answers in time"
    NO_WAY = "there is no way to it"
    CERTIFICATE = "its certificate is not accepted"
    TLS = "it does not speak TLS"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connection:
    """What became of one try. `skew_s`: how far the other's clock is ahead of ours, if it told."""

    place: str
    obstacle: Obstacle | None = None
    error: str = ""
    certificate_end: datetime.datetime | None = None
    skew_s: float | None = None


def judge_reach(
    seen: Connection, what: str, now: datetime.datetime, *, remedies: dict[Obstacle, str]
) -> finding.Finding:
    """`remedies` for what is special here, with `{place}` and `{host}`; the others are those of any host."""
    if seen.obstacle is not None:
        remedy = (remedies.get(seen.obstacle) or _REMEDIES[seen.obstacle]).format(
            place=seen.place, host=seen.place.rpartition(":")[0]
        )
        why = f" ({seen.error})" if seen.error else ""
        return finding.wrong(f"{what} {seen.place} is not reached: {seen.obstacle.value}{why}", remedy)
    end = seen.certificate_end
    if end is not None and end - now < EXPIRES_SOON:
        return finding.warning(
            f"the certificate of {what} {seen.place} ends on {end:%Y-%m-%d}", "have whoever runs it renew it"
        )
    until = f", certificate good until {end:%Y-%m-%d}" if end else ""
    return finding.well(f"{what} {seen.place} answers{until}")


def judge_skew(seen: Connection, what: str) -> finding.Finding:
    if seen.skew_s is None:
        raise finding.NotAtHandError(f"{what} did not tell its time")
    off = (
        f"our clock is {abs(seen.skew_s):.0f} s {'behind' if seen.skew_s > 0 else 'ahead of'} that of {what}"
    )
    remedy = "timedatectl set-ntp true, or install chrony, here and there"
    if abs(seen.skew_s) > SKEW_S:
        return finding.wrong(f"{off}, and calls more than {SKEW_S} s off are refused", remedy)
    if abs(seen.skew_s) > SKEW_NOTED_S:
        return finding.warning(off, remedy)
    return finding.well(f"our clock and that of {what} agree")


_REMEDIES = {
    Obstacle.NAME: "look at /etc/resolv.conf: getent hosts {host}",
    Obstacle.REFUSED: "start what should listen there, or correct the address: ss -ltn",
    Obstacle.SILENT: "look for a firewall or a stopped program on the way: nc -vz -w 3 {place}",
    Obstacle.NO_WAY: "look for a route: ip route get {host}",
    Obstacle.CERTIFICATE: "give the CA that signed it, or the name that it is for",
    Obstacle.TLS: "correct the address's scheme or port: curl -v https://{place}",
}
