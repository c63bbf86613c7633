"""What container groups use: an extension of ours."""

from __future__ import annotations

from kci.contract import groups, ids


class DescribeContainerGroupUsage(groups.Parameters, frozen=True):
    """Of all groups of the caller, or only of those of one cluster or node (by their labels)."""

    cluster_id: groups.Text = ""
    node_name: groups.Text = ""


class Usage(groups.Answer, frozen=True):
    """Up to a moment. Counters are since the group or container began, and begin anew when it does."""

    # Unix nanoseconds.
    time_ns: int
    # Time on a core, of all cores together.
    cpu_core_ns: int = 0
    memory_bytes: int = 0
    # What would not be given back under pressure.
    working_set_bytes: int = 0
    rss_bytes: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    # 0 is none.
    memory_limit_bytes: int = 0
    processes: int = 0


class Traffic(groups.Answer, frozen=True):
    """What has passed the group's interface, as the group sees it."""

    received_bytes: int = 0
    received_errors: int = 0
    sent_bytes: int = 0
    sent_errors: int = 0


class ContainerUsage(groups.Answer, frozen=True):
    name: str
    # Unix nanoseconds.
    started_at_ns: int
    usage: Usage


class ContainerGroupUsage(groups.Answer, frozen=True):
    """A group as a whole, and those of its containers that run."""

    container_group_id: ids.GroupId
    started_at_ns: int
    usage: Usage
    labels: tuple[groups.LabelValue, ...] = ()
    traffic: Traffic | None = None
    containers: tuple[ContainerUsage, ...] = ()

    def label(self, key: str) -> str:
        """A label's value, empty if it is not there."""
        return next((label.value for label in self.labels if label.key == key), "")


class ContainerGroupUsages(groups.Answer, frozen=True):
    """Groups of which nothing runs are not in it."""

    container_group_usages: tuple[ContainerGroupUsage, ...] = ()
