"""The actions of this service: name, request type, and whether it is an extension of ours."""

from __future__ import annotations

import dataclasses

from kci.contract import credentials, groups, packages, usage

SERVICE = "kci"
VERSION = "2020-07-02"


@dataclasses.dataclass(frozen=True)
class Operation:
    """One entry of the public API."""

    action: str
    parameters: type[groups.Parameters]
    extension: bool = False


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
ISSUE_CREDENTIALS = Operation("IssueCredentials", credentials.IssueCredentials, extension=True)

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
        ISSUE_CREDENTIALS,
    )
}
