"""The action that issues temporary credentials."""

from __future__ import annotations

from kci.contract import credentials as api
from kci.kit import clock
from kci.service.app import credentials
from kci.service.http import verification


class CredentialActions:
    """Request in, use case, answer out."""

    def __init__(self, service: credentials.CredentialService) -> None:
        self._service = service

    async def issue(
        self, caller: verification.Verified, request: api.IssueCredentials
    ) -> api.IssuedCredentials:
        issued = await self._service.issue(caller.identity, duration_s=request.duration_seconds)
        token = issued.credentials.security_token
        return api.IssuedCredentials(
            access_key_id=issued.credentials.access_key,
            secret_access_key=issued.credentials.secret_key.reveal(),
            security_token=token.reveal() if token else "",
            expiration=clock.to_rfc3339(issued.expires_at),
        )
