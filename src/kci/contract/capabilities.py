"""Names of what this service can do beyond Kingsoft's API. A client asks once."""

from __future__ import annotations

import dataclasses

# StreamContainerLog: the log's bytes with follow, previous, timestamps, tail, since and limit.
LOG_STREAM = "log.stream"
# WatchContainerGroups: all groups, then each change.
GROUP_WATCH = "group.watch"
# The label `pod-uuid` is taken in a create call, and makes it idempotent for (cluster-id, pod-uuid).
LABEL_POD_UUID = "label.pod-uuid"
# The parameter ClientToken makes a create call idempotent.
CLIENT_TOKEN = "create.client-token"  # noqa: S105  (a name, no secret)
# ExecContainerCommand takes Stdin, Stdout and Stderr; its WebSocket speaks v5.channel.k8s.io.
EXEC_V5 = "exec.v5"
# AttachContainer: the streams of a container's own process, spoken as those of a command.
ATTACH = "attach.v5"
# PortForwardContainerGroup: one connection to a port of the group, in the framing of a command's streams.
PORT_FORWARD = "port-forward.v5"

# CreateContainerGroup and DeleteContainerGroup take Fence.Holder and Fence.Epoch, and refuse an older epoch.
FENCED_WRITES = "FencedWrites"

# CreateContainerGroup takes Bandwidth.Ingress and Bandwidth.Egress.
BANDWIDTH = "create.bandwidth"
# DescribeContainerGroup lists in the order of creation, and Marker counts the groups before a page.
ORDERED_LIST = "list.ordered"
# IssueCredentials: temporary credentials, so that their rotation can be tried where there is no STS.
TEMPORARY_CREDENTIALS = "credentials.issue"
# DescribeContainerGroupUsage: what groups and their containers use of CPU, memory and network.
GROUP_USAGE = "group.usage"
# DescribeContainerGroupStart: when a group was made, and the steps of its start with their times.
GROUP_START = "group.start"

ALL = (
    LOG_STREAM,
    GROUP_WATCH,
    LABEL_POD_UUID,
    CLIENT_TOKEN,
    EXEC_V5,
    ATTACH,
    PORT_FORWARD,
    FENCED_WRITES,
    BANDWIDTH,
    ORDERED_LIST,
    TEMPORARY_CREDENTIALS,
    GROUP_USAGE,
    GROUP_START,
)


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a service said of itself; the real cloud has none of these."""

    names: frozenset[str] = frozenset()

    def has(self, name: str) -> bool:
        return name in self.names
