"""What can go wrong with a call to KCI, named for what the caller can do."""

from __future__ import annotations


class KciError(Exception):
    """A call failed. `code` is the API's (empty if no answer had one), `request_id` helps its operator."""

    def __init__(self, message: str, *, code: str = "", request_id: str = "") -> None:
        self.code = code
        self.request_id = request_id
        super().__init__(message)


class NotFoundError(KciError):
    """KCI itself says that the thing is not there. Never raised for an answer that is not KCI's."""


class InvalidError(KciError):
    """The request is wrong; the same one is refused again."""


class RefusedError(KciError):
    """The credentials, the clock or the rights are wrong."""


class MissingCredentialsError(RefusedError):
    """There is nothing to sign with now, so nothing was sent."""


class ConflictError(KciError):
    """Something is in the way: a quota, no free address, other parameters under the same token."""


class TryLaterError(KciError):
    """KCI did nothing and says so; the same request may succeed later."""

    def __init__(
        self, message: str, *, code: str = "", request_id: str = "", retry_after_s: float = 0.0
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, code=code, request_id=request_id)


class UnreachableError(KciError):
    """No answer, or none that can be trusted. `reached` is False if the request surely never arrived,
    None if nobody knows whether it was carried out: look before doing it again.
    """

    def __init__(
        self, message: str, *, reached: bool | None = None, code: str = "", request_id: str = ""
    ) -> None:
        self.reached = reached
        super().__init__(message, code=code, request_id=request_id)
