"""The actions of this service: name, request type, and whether it is an extension of ours."""

from __future__ import annotations

import dataclasses

from kci.contract import credentials, groups, networks, packages, security_groups, starts, usage

SERVICE = "kci"
VERSION = "2020-07-02"
# Kingsoft's service for networks, of which the part that container groups need is answered here as well.
VPC_SERVICE = "vpc"
VPC_VERSION = "2016-03-04"
SERVICES = {SERVICE: VERSION, VPC_SERVICE: VPC_VERSION}


@dataclasses.dataclass(frozen=True)
class Operation:
    """One entry of the public API."""

    action: str
    parameters: type[groups.Parameters]
    extension: bool = False
    # The name in the signature's scope; no two services have an action of the same name.
    service: str = SERVICE

    @property
    def version(self) -> str:
        return SERVICES[self.service]


CREATE_CONTAINER_GROUP = Operation("CreateContainerGroup", groups.CreateContainerGroup)
DESCRIBE_CONTAINER_GROUP = Operation("DescribeContainerGroup", groups.DescribeContainerGroup)
DELETE_CONTAINER_GROUP = Operation("DeleteContainerGroup", groups.DeleteContainerGroup)
DESCRIBE_CONTAINER_LOG = Operation("DescribeContainerLog", groups.DescribeContainerLog)
EXEC_CONTAINER_COMMAND = Operation("ExecContainerCommand", groups.ExecContainerCommand)
DESCRIBE_KCI_PACKAGES = Operation("DescribeKciPackages", packages.DescribeKciPackages)
ATTACH_CONTAINER = Operation("AttachContainer", groups.AttachContainer, extension=True)
PORT_FORWARD_CONTAINER_GROUP = Operation(
    "PortForwardContainerGroup", groups.PortForwardContainerGroup, extension=True
)
DESCRIBE_CAPABILITIES = Operation("DescribeCapabilities", groups.DescribeCapabilities, extension=True)
STREAM_CONTAINER_LOG = Operation("StreamContainerLog", groups.StreamContainerLog, extension=True)
WATCH_CONTAINER_GROUPS = Operation("WatchContainerGroups", groups.WatchContainerGroups, extension=True)
DESCRIBE_CONTAINER_GROUP_USAGE = Operation(
    "DescribeContainerGroupUsage", usage.DescribeContainerGroupUsage, extension=True
)
DESCRIBE_CONTAINER_GROUP_START = Operation(
    "DescribeContainerGroupStart", starts.DescribeContainerGroupStart, extension=True
)
ISSUE_CREDENTIALS = Operation("IssueCredentials", credentials.IssueCredentials, extension=True)
CREATE_VPC = Operation("CreateVpc", networks.CreateVpc, service=VPC_SERVICE)
DESCRIBE_VPCS = Operation("DescribeVpcs", networks.DescribeVpcs, service=VPC_SERVICE)
DELETE_VPC = Operation("DeleteVpc", networks.DeleteVpc, service=VPC_SERVICE)
CREATE_SUBNET = Operation("CreateSubnet", networks.CreateSubnet, service=VPC_SERVICE)
DESCRIBE_SUBNETS = Operation("DescribeSubnets", networks.DescribeSubnets, service=VPC_SERVICE)
MODIFY_SUBNET = Operation("ModifySubnet", networks.ModifySubnet, service=VPC_SERVICE)
DELETE_SUBNET = Operation("DeleteSubnet", networks.DeleteSubnet, service=VPC_SERVICE)
CREATE_SECURITY_GROUP = Operation(
    "CreateSecurityGroup", security_groups.CreateSecurityGroup, service=VPC_SERVICE
)
DESCRIBE_SECURITY_GROUPS = Operation(
    "DescribeSecurityGroups", security_groups.DescribeSecurityGroups, service=VPC_SERVICE
)
MODIFY_SECURITY_GROUP = Operation(
    "ModifySecurityGroup", security_groups.ModifySecurityGroup, service=VPC_SERVICE
)
DELETE_SECURITY_GROUP = Operation(
    "DeleteSecurityGroup", security_groups.DeleteSecurityGroup, service=VPC_SERVICE
)
AUTHORIZE_SECURITY_GROUP_ENTRY = Operation(
    "AuthorizeSecurityGroupEntry", security_groups.AuthorizeSecurityGroupEntry, service=VPC_SERVICE
)
REVOKE_SECURITY_GROUP_ENTRY = Operation(
    "RevokeSecurityGroupEntry", security_groups.RevokeSecurityGroupEntry, service=VPC_SERVICE
)

ALL: dict[str, Operation] = {
    operation.action: operation
    for operation in (
        CREATE_CONTAINER_GROUP,
        DESCRIBE_CONTAINER_GROUP,
        DELETE_CONTAINER_GROUP,
        DESCRIBE_CONTAINER_LOG,
        EXEC_CONTAINER_COMMAND,
        DESCRIBE_KCI_PACKAGES,
        ATTACH_CONTAINER,
        PORT_FORWARD_CONTAINER_GROUP,
        DESCRIBE_CAPABILITIES,
        STREAM_CONTAINER_LOG,
        WATCH_CONTAINER_GROUPS,
        DESCRIBE_CONTAINER_GROUP_USAGE,
        DESCRIBE_CONTAINER_GROUP_START,
        ISSUE_CREDENTIALS,
        CREATE_VPC,
        DESCRIBE_VPCS,
        DELETE_VPC,
        CREATE_SUBNET,
        DESCRIBE_SUBNETS,
        MODIFY_SUBNET,
        DELETE_SUBNET,
        CREATE_SECURITY_GROUP,
        DESCRIBE_SECURITY_GROUPS,
        MODIFY_SECURITY_GROUP,
        DELETE_SECURITY_GROUP,
        AUTHORIZE_SECURITY_GROUP_ENTRY,
        REVOKE_SECURITY_GROUP_ENTRY,
    )
}
