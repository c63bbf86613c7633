"""The one catalogue of the API's errors: code, HTTP status, what the caller can do, and the text for people.

Kingsoft documents few codes and none for KCI (kci-reference 2.5); where one is known it is used, the others
follow its style: `<Resource>NotFound`, `InvalidParameterValue`. The codes are stable, the texts are not.
"""

from __future__ import annotations

import dataclasses
import enum


class Kind(enum.Enum):
    """What a caller can do about an error."""

    BAD_INPUT = "correct the request"
    REFUSED = "use other credentials, or the right clock"
    NOT_FOUND = "nothing: it is not there"
    CONFLICT = "change what is in the way"
    TRY_LATER = "send the same request later"
    INTERNAL = "look into the service's log"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the catalogue."""

    code: str
    status: int
    kind: Kind
    text: str


class ApiError(Exception):
    """An answer that is an error. `parameter` is the path of the wrong parameter, as the caller wrote it."""

    def __init__(
        self, entry: Entry, message: str = "", *, parameter: str = "", retry_after_s: int = 0
    ) -> None:
        self.entry = entry
        self.parameter = parameter
        self.retry_after_s = retry_after_s
        text = message or entry.text
        super().__init__(f"{parameter}: {text}" if parameter else text)


MALFORMED_REQUEST = Entry("MalformedRequest", 400, Kind.BAD_INPUT, "cannot read the request")
REQUEST_TOO_LARGE = Entry("RequestTooLarge", 413, Kind.BAD_INPUT, "cannot take a request of this size")
MISSING_PARAMETER = Entry("MissingParameter", 400, Kind.BAD_INPUT, "a required parameter is missing")
INVALID_PARAMETER_VALUE = Entry("InvalidParameterValue", 400, Kind.BAD_INPUT, "a parameter's value is wrong")
INVALID_ACTION = Entry("InvalidAction", 400, Kind.BAD_INPUT, "this service has no such action")
UNSUPPORTED_OPERATION = Entry(
    "UnsupportedOperation", 400, Kind.BAD_INPUT, "this service cannot do what is asked"
)
METHOD_NOT_ALLOWED = Entry("MethodNotAllowed", 405, Kind.BAD_INPUT, "use GET or POST")

MISSING_AUTHENTICATION = Entry(
    "MissingAuthenticationToken",
    403,
    Kind.REFUSED,
    "the request is not signed; sign it with AWS4-HMAC-SHA256",
)
INCOMPLETE_SIGNATURE = Entry("IncompleteSignature", 400, Kind.REFUSED, "the request's signature is malformed")
REQUEST_EXPIRED = Entry(
    "RequestExpired", 403, Kind.REFUSED, "the request's time is too far from the service's clock"
)
# One code and one text for an unknown key and a wrong signature: nobody learns which keys exist.
SIGNATURE_MISMATCH = Entry(
    "SignatureDoesNotMatch", 403, Kind.REFUSED, "no known access key gives this request that signature"
)
SECURITY_TOKEN_INVALID = Entry(
    "SecurityTokenInvalid", 403, Kind.REFUSED, "the security token does not belong to this access key"
)
# The one code of which Kingsoft's own clients know what to do: take other credentials, and try once more.
SECURITY_TOKEN_EXPIRED = Entry(
    "SecurityTokenExpired", 400, Kind.REFUSED, "these temporary credentials have ended; use newer ones"
)
ACCESS_DENIED = Entry("AccessDenied", 403, Kind.REFUSED, "this is not allowed")
REPLAYED_REQUEST = Entry(
    "ReplayedRequest", 403, Kind.REFUSED, "this signed request was used before; sign it anew"
)

NOT_FOUND = Entry("NotFound", 404, Kind.NOT_FOUND, "there is nothing at this path")
CONTAINER_GROUP_NOT_FOUND = Entry(
    "ContainerGroupNotFound", 404, Kind.NOT_FOUND, "there is no such container group"
)
CONTAINER_NOT_FOUND = Entry("ContainerNotFound", 404, Kind.NOT_FOUND, "there is no such container or log")
VPC_NOT_FOUND = Entry("VpcNotFound", 404, Kind.NOT_FOUND, "there is no such VPC")
SUBNET_NOT_FOUND = Entry("SubnetNotFound", 404, Kind.NOT_FOUND, "there is no such subnet")
SECURITY_GROUP_NOT_FOUND = Entry(
    "SecurityGroupNotFound", 404, Kind.NOT_FOUND, "there is no such security group"
)
SECURITY_GROUP_ENTRY_NOT_FOUND = Entry(
    "SecurityGroupEntryNotFound", 404, Kind.NOT_FOUND, "the security group has no such entry"
)

IDEMPOTENT_PARAMETER_MISMATCH = Entry(
    "IdempotentParameterMismatch",
    409,
    Kind.CONFLICT,
    "the same token or pod came before with other parameters",
)
STALE_EPOCH = Entry(
    "StaleEpoch",
    409,
    Kind.CONFLICT,
    "the holder has written in a later epoch; stop writing until the Lease is held again",
)
INSUFFICIENT_ADDRESSES = Entry(
    "InsufficientAddresses", 409, Kind.CONFLICT, "the subnet has no free address; delete a container group"
)
CIDR_CONFLICT = Entry(
    "CidrConflict", 409, Kind.CONFLICT, "the range overlaps one that is in use; choose another"
)
VPC_IN_USE = Entry(
    "VpcInUse", 409, Kind.CONFLICT, "the VPC has subnets or security groups; delete them first"
)
SUBNET_IN_USE = Entry(
    "SubnetInUse", 409, Kind.CONFLICT, "container groups are in the subnet; delete them first"
)
SECURITY_GROUP_IN_USE = Entry(
    "SecurityGroupInUse", 409, Kind.CONFLICT, "container groups or entries name the security group"
)
SECURITY_GROUP_ENTRY_EXISTS = Entry(
    "SecurityGroupEntryExists", 409, Kind.CONFLICT, "the security group has the same entry already"
)
LIMIT_EXCEEDED = Entry("LimitExceeded", 409, Kind.CONFLICT, "there are as many as may be; delete one first")

TOO_MANY_REQUESTS = Entry("TooManyRequests", 429, Kind.TRY_LATER, "too much at once; try again later")
SERVICE_UNAVAILABLE = Entry(
    "ServiceUnavailable", 503, Kind.TRY_LATER, "the service cannot do this now; try again later"
)
INTERNAL_ERROR = Entry(
    "InternalError", 500, Kind.INTERNAL, "the service failed; its log has the cause under this request id"
)

CATALOGUE: dict[str, Entry] = {
    entry.code: entry for entry in tuple(globals().values()) if isinstance(entry, Entry)
}
