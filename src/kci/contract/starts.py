"""How a container group was started: an extension of ours."""

from __future__ import annotations

from kci.contract import groups, ids


class DescribeContainerGroupStart(groups.Parameters, frozen=True):
    """Of one group of the caller's."""

    container_group_id: groups.Text = ""


class StartStep(groups.Answer, frozen=True):
    """A part of the start, from its first try to its last success. Parts may overlap. Unix milliseconds."""

    step: str
    began_at_ms: int
    ended_at_ms: int


class GroupStart(groups.Answer, frozen=True):
    """No steps while it starts, and of a start that nobody remembers."""

    container_group_id: ids.GroupId
    # Unix milliseconds: when the create call was written down.
    stored_at_ms: int
    steps: tuple[StartStep, ...] = ()
