"""KCI's errors as the virtual node's: what may be done next."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kci.client import errors
from kci.contract import errors as catalogue
from kci.kube import reasons
from kci.vnode import provider


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Around a call to KCI."""
    try:
        yield
    except errors.KciError as error:
        raise to_provider_error(error) from error


def reason_of(error: errors.KciError) -> reasons.Code:
    """What it is called on a pod."""
    return reasons.of_error(error.code or type(error).__name__.removesuffix("Error"))


def to_provider_error(error: errors.KciError) -> provider.ProviderError:
    reason, message = reason_of(error), str(error)
    match error:
        case errors.NotFoundError():
            return provider.NotFoundError(message)
        case errors.InvalidError():
            return provider.RefusedError(reason, message)
        case errors.ConflictError() if error.code == catalogue.IDEMPOTENT_PARAMETER_MISMATCH.code:
            # There is a group for this pod already, from before our settings changed: it will be found.
            return provider.OutcomeUnknownError(message)
        case errors.RefusedError():
            # Keys, clocks and rights are every call's: once somebody has put them right all go on.
            return provider.UnavailableError(reason, message)
        case errors.ConflictError():
            # Quotas and addresses are this request's.
            return provider.TryLaterError(reason, message)
        case errors.TryLaterError():
            return provider.UnavailableError(reason, message, retry_after_s=error.retry_after_s)
        case errors.UnreachableError() if error.reached is False:
            return provider.UnavailableError(reason, message)
        case _:
            return provider.OutcomeUnknownError(message)
