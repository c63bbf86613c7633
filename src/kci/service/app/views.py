"""A group and its networks as others see them: the API's answers, the engine's wish, and what a report
changes. Pure.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable

from kci.contract import groups as api
from kci.contract import networks as networks_api
from kci.contract import packages
from kci.contract import security_groups as security_groups_api
from kci.contract import starts as starts_api
from kci.kit import secret
from kci.link import types as link
from kci.service.domain import addresses, groups, networks, security_groups, states

# Kingsoft shows Beijing time without saying so (kci-reference 12, row 15).
_BEIJING = datetime.timezone(datetime.timedelta(hours=8))
_MAX_REASON = 128
_MAX_MESSAGE = 1024


def to_answer(group: groups.Group, place: groups.Place) -> api.ContainerGroup:
    request = group.request
    return api.ContainerGroup(
        container_group_id=group.group_id,
        container_group_name=request.container_group_name,
        availability_zone=place.zone,
        charge_type=request.charge_type,
        project_id=request.project_id,
        instance_type=request.instance_type,
        status=group.status.value,
        create_time=_to_time(group.created_at),
        cpu=group.size.cores,
        memory=group.size.gib,
        gpu=packages.whole(request.gpu),
        retain_ip=request.retain_ip,
        retain_ip_hours=request.retain_ip_hours if request.retain_ip else 0,
        network_interface_attributes=(_to_interface(group),),
        labels=tuple(api.LabelValue(key=label.key, value=label.value) for label in request.label),
        status_reason=group.reason,
        status_message=group.message,
    )


def to_change(group: groups.Group, place: groups.Place) -> api.GroupChange:
    if group.lifecycle is states.Lifecycle.DELETED:
        return api.GroupChange(group_id=group.group_id, absent=True)
    return api.GroupChange(group_id=group.group_id, group=to_answer(group, place))


def to_wanted(
    group: groups.Group, place: groups.Place, kubeconfig: secret.Secret, *, traceparent: str = ""
) -> link.WantedGroup:
    request = group.request
    machine = request.machine_dns_config or api.MachineDnsConfig()
    return link.WantedGroup(
        group_id=group.group_id,
        generation=group.generation,
        # Clusters of one customer's are as strange to each other as customers are.
        tenant_id=f"{group.tenant_id}/{group.cluster_id}",
        cluster=link.Cluster(cluster_id=group.cluster_id, kubeconfig=kubeconfig.reveal()),
        namespace=request.label_value(api.NAMESPACE),
        pod_name=request.label_value(api.POD_NAME),
        pod_uid=group.pod_uid,
        node_name=request.label_value(api.NODE_NAME),
        cpu_milli=group.size.cpu_milli,
        memory_mib=group.size.memory_mib,
        interface=link.Interface(
            address=group.interface.address,
            prefix_length=group.interface.prefix_length,
            gateway=group.interface.gateway,
            mac_address=group.interface.mac_address,
            mtu=group.subnet.mtu or place.mtu,
        ),
        cluster_dns=tuple(part.strip() for part in request.cluster_dns.split(",") if part.strip()),
        cluster_domain=request.cluster_domain or "cluster.local",
        machine_dns=machine.name_server or group.subnet.name_servers,
        machine_searches=machine.search,
        machine_host_aliases=tuple(
            link.HostAlias(ip=alias.ip, hostnames=alias.hostname) for alias in request.machine_host_aliase
        ),
        machine_options=tuple(
            f"{option.name}:{option.value}" if option.value else option.name for option in machine.option
        ),
        kube_proxy=bool(request.kube_proxy and request.kube_proxy.enabled),
        security_group_ids=request.security_group_id,
        ingress_bits=request.bandwidth.ingress if request.bandwidth else 0,
        egress_bits=request.bandwidth.egress if request.bandwidth else 0,
        traceparent=traceparent,
    )


def to_status(phase: link.Phase) -> states.Status:
    """The one mapping from what a machine sees to what the API says."""
    match phase:
        case link.Phase.PENDING:
            return states.Status.PENDING
        case link.Phase.IMAGE_PULLING:
            return states.Status.IMAGE_PULLING
        case link.Phase.RUNNING:
            return states.Status.RUNNING
        case link.Phase.SUCCEEDED:
            return states.Status.SUCCEEDED
        case link.Phase.FAILED:
            return states.Status.FAILED
        case link.Phase.GONE:
            # Gone without a wish to delete it: its pod was deleted in the cluster, and the caller's
            # DeleteContainerGroup is still to come. The row stays until then.
            return states.Status.UNKNOWN


def counts(group: groups.Group, report: link.GroupReport) -> bool:
    """Whether a report speaks of what is wanted now. A machine that was asked to end a group which it was
    never told of says Gone for generation 0.
    """
    if report.generation == group.generation:
        return True
    ending = group.lifecycle is states.Lifecycle.DELETING
    return ending and report.phase is link.Phase.GONE and report.generation == 0


def apply_report(group: groups.Group, report: link.GroupReport) -> groups.Group:
    """The group after a report on it."""
    gone = report.phase is link.Phase.GONE
    lifecycle = group.lifecycle
    if gone and lifecycle is states.Lifecycle.DELETING:
        lifecycle = states.change(
            group.group_id, lifecycle, states.Lifecycle.DELETED, why="the machine has nothing of it left"
        )
    return dataclasses.replace(
        group,
        lifecycle=lifecycle,
        status=states.next_status(group.status, to_status(report.phase)),
        gone=gone,
        reason=report.reason[:_MAX_REASON],
        message=report.message[:_MAX_MESSAGE],
    )


def to_start(group: groups.Group, steps: Iterable[link.StartStep]) -> starts_api.GroupStart:
    return starts_api.GroupStart(
        container_group_id=group.group_id,
        stored_at_ms=round(1000 * group.created_at.timestamp()),
        steps=tuple(
            starts_api.StartStep(step=one.step, began_at_ms=one.began_ms, ended_at_ms=one.ended_ms)
            for one in steps
        ),
    )


def to_vpc(vpc: networks.Vpc) -> networks_api.Vpc:
    return networks_api.Vpc(
        vpc_id=vpc.vpc_id,
        vpc_name=vpc.name,
        cidr_block=str(vpc.network),
        is_default=vpc.is_default,
        create_time=_to_time(vpc.created_at),
    )


def to_subnet(subnet: networks.Subnet, place: groups.Place, *, used: int) -> networks_api.Subnet:
    """`used` is how many of its addresses groups have."""
    pool = subnet.pool
    first, last = addresses.bounds(pool)
    dns1, dns2 = (*subnet.name_servers, "", "")[:2]
    return networks_api.Subnet(
        subnet_id=subnet.subnet_id,
        vpc_id=subnet.vpc_id,
        subnet_name=subnet.name,
        cidr_block=str(pool.network),
        dhcp_ip_from=addresses.to_text(first),
        dhcp_ip_to=addresses.to_text(last),
        dns1=dns1,
        dns2=dns2,
        gateway_ip=str(pool.gateway),
        availability_zone_name=place.zone,
        available_ip_number=str(max(0, addresses.count_usable(pool) - used)),
        create_time=_to_time(subnet.created_at),
        mtu=subnet.mtu or place.mtu,
    )


def to_security_group(
    group: security_groups.SecurityGroup, rules: Iterable[security_groups.Rule]
) -> security_groups_api.SecurityGroup:
    return security_groups_api.SecurityGroup(
        security_group_id=group.security_group_id,
        vpc_id=group.vpc_id,
        security_group_name=group.name,
        description=group.description,
        security_group_type=security_groups_api.DEFAULT if group.is_default else security_groups_api.ORDINARY,
        create_time=_to_time(group.created_at),
        security_group_entry_set=tuple(_to_entry(rule) for rule in rules),
    )


def to_link_rule(rule: security_groups.Rule) -> link.SecurityGroupRule:
    match = rule.match
    return link.SecurityGroupRule(
        direction=link.Direction(match.direction),
        is_allowed=rule.is_allowed,
        priority=rule.priority,
        protocol=link.Protocol(match.protocol),
        first_port=match.first_port,
        last_port=match.last_port,
        icmp_type=match.icmp_type,
        icmp_code=match.icmp_code,
        cidr=match.cidr,
        security_group_id=match.peer_id,
    )


def _to_entry(rule: security_groups.Rule) -> security_groups_api.SecurityGroupEntry:
    match = rule.match
    has_ports = match.protocol in {security_groups_api.TCP, security_groups_api.UDP}
    is_icmp = match.protocol == security_groups_api.ICMP
    every = security_groups_api.ALL_ICMP
    return security_groups_api.SecurityGroupEntry(
        security_group_entry_id=rule.rule_id,
        description=rule.description,
        cidr_block=match.cidr,
        authorized_security_group_id=match.peer_id,
        direction=match.direction,
        protocol=match.protocol,
        icmp_type=(every if match.icmp_type is None else match.icmp_type) if is_icmp else None,
        icmp_code=(every if match.icmp_code is None else match.icmp_code) if is_icmp else None,
        port_range_from=match.first_port if has_ports else None,
        port_range_to=match.last_port if has_ports else None,
        rule_tag=rule.tag,
        priority=rule.priority,
        policy=security_groups_api.ACCEPT if rule.is_allowed else security_groups_api.DROP,
        create_time=_to_time(rule.created_at),
    )


def _to_time(moment: datetime.datetime) -> str:
    return moment.astimezone(_BEIJING).strftime("%Y-%m-%d %H:%M:%S")


def _to_interface(group: groups.Group) -> api.NetworkInterface:
    return api.NetworkInterface(
        network_interface_id=group.interface.interface_id,
        vpc_id=group.subnet.vpc_id,
        subnet_id=group.interface.subnet_id,
        private_ip_address=group.interface.address,
        mac_address=group.interface.mac_address,
        security_groups=tuple(
            api.SecurityGroup(security_group_id=value) for value in group.request.security_group_id
        ),
    )
