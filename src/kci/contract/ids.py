"""Identifiers as types of their own: mixing them up is a type error. All are UUIDs on the wire."""

from __future__ import annotations

import uuid
from typing import NewType

GroupId = NewType("GroupId", str)
TenantId = NewType("TenantId", str)
SubnetId = NewType("SubnetId", str)
SecurityGroupId = NewType("SecurityGroupId", str)
VpcId = NewType("VpcId", str)
RuleId = NewType("RuleId", str)


def new_group_id() -> GroupId:
    return GroupId(str(uuid.uuid4()))
