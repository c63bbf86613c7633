"""The KCI service as the virtual node uses it: keys, subnet, security groups. Pure."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

from kci.client import errors
from kci.contract import errors as catalogue
from kci.doctor.findings import finding
from kci.stack import typed

ADDRESSES_LOW = 8
ENDS_SOON = datetime.timedelta(minutes=5)


@dataclasses.dataclass(frozen=True)
class TemporaryKeys:
    """Keys in an object or folder; `problem` says why they cannot be used."""

    place: str
    end: datetime.datetime | None = None
    problem: str = ""
    remedy: str = ""


@dataclasses.dataclass(frozen=True)
class Networks:
    """What the service has of what the node names; `subnet_vpc` and `group_vpcs` are the VPCs' ids."""

    subnet_id: str
    security_group_ids: tuple[str, ...]
    has_subnet: bool = False
    subnet_vpc: str = ""
    free_addresses: int | None = None
    group_vpcs: tuple[tuple[str, str], ...] = ()


def judge_keys(problem: errors.KciError | None, *, region: str) -> finding.Finding:
    if problem is None or isinstance(problem, errors.InvalidError):
        # A request that is wrong was read, so its signature was right.
        return finding.well(f"the service accepts the keys in {region}")
    match problem.code:
        case catalogue.REQUEST_EXPIRED.code:
            remedy = "timedatectl set-ntp true: the clocks are more than five minutes apart"
        case catalogue.SECURITY_TOKEN_EXPIRED.code | catalogue.SECURITY_TOKEN_INVALID.code:
            remedy = "have new temporary keys put where TEMP_AKSK_CM, TEMP_AKSK_SECRET or AKSK_FILE_PATH says"
        case _:
            remedy = (
                "correct KCI_ACCESS_KEY, KCI_SECRET_KEY and KCI_REGION; of a stack they stand in its kci.env"
            )
    if isinstance(problem, errors.MissingCredentialsError):
        return finding.of_sentence(finding.Level.WRONG, str(problem), otherwise=remedy)
    if isinstance(problem, errors.RefusedError):
        return finding.wrong(f"the service refuses the keys: {problem}", remedy)
    return finding.wrong(
        f"whether the service accepts the keys cannot be told: {problem}",
        "look at the service's state and log, and ask again",
    )


def judge_temporary(
    seen: Sequence[TemporaryKeys], now: datetime.datetime, place: typed.Place
) -> list[finding.Finding]:
    """Of several places one with good keys is enough."""
    good = [one for one in seen if not one.problem and (one.end is None or now < one.end)]
    found = []
    for one in seen:
        if one.problem:
            text, remedy = f"{one.place}: {one.problem}", one.remedy
        elif one.end is not None and now >= one.end:
            text = f"the keys of {one.place} ended at {one.end:%Y-%m-%d %H:%M:%S} UTC"
            remedy = (
                "see why whoever renews them does not; of a stack: "
                f"{place.kci('credentials issue')} | {place.inside('kubectl apply -f -')}"
            )
        elif one.end is not None and one.end - now < ENDS_SOON:
            text = f"the keys of {one.place} end at {one.end:%H:%M:%S} UTC"
            remedy = "see that somebody renews them"
        else:
            until = f"until {one.end:%Y-%m-%d %H:%M:%S} UTC" if one.end else "without an end"
            found.append(finding.well(f"the keys of {one.place} are good {until}"))
            continue
        found.append(finding.warning(text, remedy) if good else finding.wrong(text, remedy))
    return found


def judge_subnet(seen: Networks, place: typed.Place) -> finding.Finding:
    create = place.kci("subnet create --cidr CIDR")
    if not seen.subnet_id:
        return finding.warning(
            "KCI_SUBNET_ID is not set: pods whose annotation names no subnet are refused",
            f"set it to one of {place.kci('subnets')}",
        )
    if not seen.has_subnet:
        return finding.wrong(
            f"the service has no subnet {seen.subnet_id}, which KCI_SUBNET_ID names",
            f"set it to one of {place.kci('subnets')}, or make one: {create}",
        )
    free = seen.free_addresses
    if free is not None and free < ADDRESSES_LOW:
        remedy = f"delete pods, or make a larger subnet and name it by KCI_SUBNET_ID: {create}"
        text = f"the subnet {seen.subnet_id} has {free} free addresses"
        return finding.warning(text, remedy) if free else finding.wrong(text, remedy)
    return finding.well(
        f"the subnet {seen.subnet_id} is there" + (f", {free} addresses free" if free else "")
    )


def judge_security_groups(seen: Networks, place: typed.Place) -> list[finding.Finding]:
    listed = place.kci("security-groups")
    if not seen.security_group_ids:
        return [
            finding.warning(
                "KCI_SECURITY_GROUP_IDS is not set: pods whose annotation names none are refused",
                f"set it to one to three of {listed}",
            )
        ]
    vpcs = dict(seen.group_vpcs)
    found = []
    for one in seen.security_group_ids:
        if one not in vpcs:
            found.append(
                finding.wrong(
                    f"the service has no security group {one}, which KCI_SECURITY_GROUP_IDS names",
                    f"set it to one to three of {listed}, or make one: {place.kci('security-group create')}",
                )
            )
        elif seen.has_subnet and vpcs[one] != seen.subnet_vpc:
            found.append(
                finding.wrong(
                    f"the security group {one} is of the VPC {vpcs[one]}, the subnet {seen.subnet_id} of "
                    f"{seen.subnet_vpc}",
                    f"name a subnet and security groups of one VPC: {place.kci('subnets')}, {listed}",
                )
            )
    return found or [finding.well(f"security groups are there: {', '.join(seen.security_group_ids)}")]
