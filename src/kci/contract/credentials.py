"""Temporary credentials: an extension, for which Kingsoft has a service of its own (STS). Names are STS'."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kci.contract import groups

MIN_DURATION_S = 60
MAX_DURATION_S = 86_400
DEFAULT_DURATION_S = 3600


class IssueCredentials(groups.Parameters, frozen=True):
    """Asks for temporary credentials with the caller's rights."""

    duration_seconds: Annotated[int, msgspec.Meta(ge=MIN_DURATION_S, le=MAX_DURATION_S)] = DEFAULT_DURATION_S


class IssuedCredentials(groups.Answer, frozen=True):
    """Secret; left out of the repr. `expiration` is RFC 3339 in UTC."""

    access_key_id: str
    secret_access_key: str
    security_token: str
    expiration: str

    def __repr__(self) -> str:
        return (
            f"IssuedCredentials(access_key_id={self.access_key_id!r}, expiration={self.expiration!r}, ****)"
        )
