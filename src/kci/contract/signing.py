"""AWS Signature Version 4, both sides: pure functions over the parts of a request.

The verifier is strict where others were broken (reliability.md 3.2): the scope must be exactly ours, the
scope's date is the timestamp's, host and all x-amz headers are signed, nothing that decides is there
twice, the two forms are never mixed. Whoever acts on a request acts on the pairs that were verified here,
never on a second reading of the URL. Checks come in a fixed order: form, algorithm, scope, time window,
key, signature (in constant time; an unknown key costs the same), hash of the body.

Own reading of AWS's "Signature Version 4" reference; the strictness follows scratchstack-aws-signature.
"""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import hashlib
import hmac
import re
import urllib.parse
from collections.abc import Iterable, Sequence

from kci.contract import errors, operations
from kci.kit import secret

Pair = tuple[str, str]

ALGORITHM = "AWS4-HMAC-SHA256"
TERMINATOR = "aws4_request"
TOKEN_HEADER = "x-ksc-security-token"  # noqa: S105  (a header's name)
DEFAULT_SKEW_S = 300
MAX_EXPIRES_S = 604_800

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=([^\s,]+) *, *SignedHeaders=([^\s,]+) *, *Signature=([^\s,]+)\Z"
)
_SIGNATURE = re.compile(r"[0-9a-f]{64}\Z")
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+\Z")
_BASIC_DATE = "%Y%m%dT%H%M%SZ"
_QUERY_NAMES = (
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
)
_ONCE = frozenset(
    ("authorization", "host", "date", "x-amz-date", "x-amz-content-sha256", "content-type", TOKEN_HEADER)
)
# Stands in for the secret of a key that does not exist, so that its check costs the same.
_NOBODY = secret.Secret("0" * 40)


@dataclasses.dataclass(frozen=True)
class Request:
    """What is signed: method, raw path, decoded query pairs, headers as they came, and the body."""

    method: str
    path: str
    query: Sequence[Pair] = ()
    headers: Sequence[Pair] = ()
    body: bytes = b""


@dataclasses.dataclass(frozen=True)
class Scope:
    """Where a signature is good. `date` is yyyymmdd."""

    date: str
    region: str
    service: str = operations.SERVICE

    def __str__(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/{TERMINATOR}"


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a request says of itself: worth nothing until `check_signature` has passed."""

    access_key: str
    scope: Scope
    timestamp: datetime.datetime
    signed_headers: tuple[str, ...]
    signature: str
    in_query: bool
    security_token: str
    # The body's hash by the header x-amz-content-sha256; empty if the header is absent.
    payload_hash: str


@dataclasses.dataclass(frozen=True)
class Credentials:
    """A key pair, with a token if they are temporary ones."""

    access_key: str
    secret_key: secret.Secret
    security_token: secret.Secret | None = None


# ---- verifying ----------------------------------------------------------------------------------


def read_claim(
    request: Request, *, region: str, now: datetime.datetime, skew_s: int = DEFAULT_SKEW_S
) -> Claim:
    """The request's claim, once its form, scope and time are right. Looks at neither key nor body."""
    _check_text(request)
    headers = _headers_once(request.headers)
    query = _auth_query(request.query)
    if "authorization" in headers and query:
        raise _incomplete("sign in the header or in the query, not in both")
    if "authorization" in headers:
        credential, names, signature = _read_authorization(headers["authorization"])
    elif query:
        credential, names, signature = _read_query(query)
    else:
        raise errors.ApiError(errors.MISSING_AUTHENTICATION)
    access_key, scope = _read_credential(credential)
    claim = Claim(
        access_key=access_key,
        scope=scope,
        timestamp=_read_timestamp(query.get("X-Amz-Date", ""), headers),
        signed_headers=_read_signed_headers(names, headers),
        signature=signature,
        in_query=bool(query),
        security_token=headers.get(TOKEN_HEADER, ""),
        payload_hash=headers.get("x-amz-content-sha256", ""),
    )
    _check_scope(claim, region)
    _check_time(claim, query.get("X-Amz-Expires", ""), now, skew_s)
    return claim


def check_signature(request: Request, claim: Claim, secret_key: secret.Secret | None) -> None:
    """Raise unless the claim is true. `None` stands for an unknown key: same answer, same cost."""
    body_hash = hashlib.sha256(request.body).hexdigest()
    expected = signature_of(
        request, claim.scope, claim.timestamp, claim.signed_headers,
        claim.payload_hash or body_hash, secret_key or _NOBODY,
    )  # fmt: skip
    same = hmac.compare_digest(expected.encode(), claim.signature.encode())
    if not same or secret_key is None:
        raise errors.ApiError(errors.SIGNATURE_MISMATCH)
    if claim.payload_hash and not hmac.compare_digest(claim.payload_hash.encode(), body_hash.encode()):
        raise errors.ApiError(
            errors.SIGNATURE_MISMATCH, "cannot accept a body that x-amz-content-sha256 does not name"
        )


def parameters_of(query: Iterable[Pair]) -> list[Pair]:
    """The query without what belongs to the signature."""
    return [(name, value) for name, value in query if name not in _QUERY_NAMES]


# ---- signing ------------------------------------------------------------------------------------


def sign(
    request: Request,
    credentials: Credentials,
    *,
    region: str,
    now: datetime.datetime,
    service: str = operations.SERVICE,
) -> list[Pair]:
    """The headers to add to a request that has `host` among its headers already."""
    stamp = now.astimezone(datetime.UTC)
    body_hash = hashlib.sha256(request.body).hexdigest()
    added = [("x-amz-date", stamp.strftime(_BASIC_DATE)), ("x-amz-content-sha256", body_hash)]
    if credentials.security_token:
        added.append((TOKEN_HEADER, credentials.security_token.reveal()))
    whole = dataclasses.replace(request, headers=[*request.headers, *added])
    names = _names_to_sign(whole.headers)
    scope = Scope(date=stamp.strftime("%Y%m%d"), region=region, service=service)
    signature = signature_of(whole, scope, stamp, names, body_hash, credentials.secret_key)
    credential = f"{credentials.access_key}/{scope}"
    value = f"{ALGORITHM} Credential={credential}, SignedHeaders={';'.join(names)}, Signature={signature}"
    return [*added, ("Authorization", value)]


# ---- the canonical form ---------------------------------------------------------------------------


def canonical_request(request: Request, signed_headers: Sequence[str], payload_hash: str) -> str:
    """AWS's canonical request; the path is taken as it came and must be normal already."""
    values: dict[str, list[str]] = {}
    for name, value in request.headers:
        values.setdefault(name.lower(), []).append(" ".join(value.split()))
    lines = [f"{name}:{','.join(values.get(name, []))}" for name in signed_headers]
    return "\n".join(
        (
            request.method.upper(),
            _canonical_path(request.path),
            _canonical_query(request.query),
            *lines,
            "",
            ";".join(signed_headers),
            payload_hash,
        )
    )


def signature_of(
    request: Request,
    scope: Scope,
    timestamp: datetime.datetime,
    signed_headers: Sequence[str],
    payload_hash: str,
    secret_key: secret.Secret,
) -> str:
    """The signature itself, 64 hexadecimal digits."""
    canonical = canonical_request(request, signed_headers, payload_hash)
    to_sign = "\n".join(
        (
            ALGORITHM,
            timestamp.strftime(_BASIC_DATE),
            str(scope),
            hashlib.sha256(canonical.encode()).hexdigest(),
        )
    )
    key = f"AWS4{secret_key.reveal()}".encode()
    for part in (scope.date, scope.region, scope.service, TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, to_sign.encode(), "sha256").hex()


def _canonical_path(path: str) -> str:
    """Each segment encoded once more, as for every service but S3."""
    return urllib.parse.quote(path or "/", safe="/-_.~")


def _canonical_query(query: Sequence[Pair]) -> str:
    encoded = [
        (urllib.parse.quote(name, safe="-_.~"), urllib.parse.quote(value, safe="-_.~"))
        for name, value in query
        if name != "X-Amz-Signature"
    ]
    return "&".join(f"{name}={value}" for name, value in sorted(encoded))


def _names_to_sign(headers: Iterable[Pair]) -> tuple[str, ...]:
    names = {name.lower() for name, _ in headers}
    return tuple(
        sorted(
            name
            for name in names
            if name in ("host", "content-type", TOKEN_HEADER) or name.startswith("x-amz-")
        )
    )


# ---- the verifier's steps, in the order they are called -------------------------------------------


def _check_text(request: Request) -> None:
    """Servers hand over bytes that are no UTF-8 as lone surrogates; those have no canonical form."""
    try:
        for text in (request.path, *(value for _, value in request.headers)):
            text.encode()
    except UnicodeEncodeError as error:
        raise _incomplete("the path and the headers must be UTF-8") from error


def _headers_once(headers: Iterable[Pair]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        if key in found and (key in _ONCE or key.startswith("x-amz-")):
            raise _incomplete(f"the header {key} is there twice")
        found[key] = value.strip()
    return found


def _auth_query(query: Iterable[Pair]) -> dict[str, str]:
    """The signature's own query pairs; a second one, or one in other letters, is refused."""
    known = {name.lower(): name for name in _QUERY_NAMES}
    found: dict[str, str] = {}
    for name, value in query:
        exact = known.get(name.lower())
        if exact is None:
            continue
        if name != exact or name in found:
            raise _incomplete(f"the query parameter {exact} is there twice or in other letters")
        found[name] = value
    return found


def _read_authorization(value: str) -> tuple[str, str, str]:
    match = _AUTHORIZATION.match(value)
    if match is None:
        raise _incomplete(
            "the Authorization header is not 'AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…'"
        )
    credential, names, signature = match.groups()
    return credential, names, _check_hex(signature)


def _read_query(query: dict[str, str]) -> tuple[str, str, str]:
    for name in ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-SignedHeaders", "X-Amz-Signature"):
        if not query.get(name):
            raise _incomplete(f"the query parameter {name} is missing")
    if query["X-Amz-Algorithm"] != ALGORITHM:
        raise _incomplete(f"the algorithm must be {ALGORITHM}")
    return query["X-Amz-Credential"], query["X-Amz-SignedHeaders"], _check_hex(query["X-Amz-Signature"])


def _check_hex(signature: str) -> str:
    if not _SIGNATURE.match(signature):
        raise _incomplete("the signature is not 64 hexadecimal digits in lower case")
    return signature


def _read_credential(credential: str) -> tuple[str, Scope]:
    parts = credential.split("/")
    if len(parts) != 5 or not all(parts) or len(parts[0]) > 128:
        raise _incomplete("the credential is not KEY/yyyymmdd/region/service/aws4_request")
    access_key, date, region, service, terminator = parts
    if terminator != TERMINATOR:
        raise _incomplete(f"the credential must end with {TERMINATOR}")
    return access_key, Scope(date=date, region=region, service=service)


def _read_timestamp(in_query: str, headers: dict[str, str]) -> datetime.datetime:
    """From the query, else x-amz-date, else Date. Two of the first kinds must not disagree."""
    in_header = headers.get("x-amz-date", "")
    if in_query and in_header and in_query != in_header:
        raise _incomplete("X-Amz-Date differs between query and header")
    text = in_query or in_header or headers.get("date", "")
    if re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", text, re.ASCII):
        try:
            return datetime.datetime.strptime(text, _BASIC_DATE).replace(tzinfo=datetime.UTC)
        except ValueError as error:
            raise _incomplete("the date does not exist") from error
    if text and not (in_query or in_header):
        try:
            moment = email.utils.parsedate_to_datetime(text)
            if moment.tzinfo is not None:
                return moment.astimezone(datetime.UTC)
        except (ValueError, OverflowError) as error:
            raise _incomplete("the Date header cannot be read") from error
    raise _incomplete("a date is missing: give X-Amz-Date as yyyymmddThhmmssZ")


def _read_signed_headers(names: str, headers: dict[str, str]) -> tuple[str, ...]:
    listed = tuple(names.split(";"))
    if list(listed) != sorted(set(listed)) or not all(_HEADER_NAME.match(name) for name in listed):
        raise _incomplete("SignedHeaders must be unique names in lower case and in order")
    if "host" not in listed:
        raise _incomplete("the Host header must be signed")
    for name in listed:
        if name not in headers:
            raise _incomplete(f"the signed header {name} is missing")
    for name in headers:
        if name.startswith("x-amz-") and name not in listed:
            raise _incomplete(f"the header {name} must be signed")
    return listed


def _check_scope(claim: Claim, region: str) -> None:
    if claim.scope.service not in operations.SERVICES:
        services = " or ".join(repr(name) for name in operations.SERVICES)
        raise _incomplete(f"the credential must be scoped to the service {services}")
    if claim.scope.region != region:
        raise _incomplete(f"the credential must be scoped to the region {region!r}")
    if claim.scope.date != claim.timestamp.strftime("%Y%m%d"):
        raise _incomplete("the credential's date is not the date of the request")


def _check_time(claim: Claim, expires: str, now: datetime.datetime, skew_s: int) -> None:
    """Inside the window. `X-Amz-Expires` can shorten a request's life, never lengthen it: a captured
    request would else be good for days.
    """
    age_s = (now - claim.timestamp).total_seconds()
    life_s = float(skew_s)
    if expires:
        if not re.fullmatch(r"[0-9]{1,6}", expires, re.ASCII) or not 1 <= int(expires) <= MAX_EXPIRES_S:
            raise _incomplete(f"X-Amz-Expires must be 1 to {MAX_EXPIRES_S} seconds")
        life_s = min(life_s, float(expires))
    if not -skew_s <= age_s <= life_s:
        raise errors.ApiError(
            errors.REQUEST_EXPIRED,
            f"the request's time is {claim.timestamp.strftime(_BASIC_DATE)},"
            f" the service's is {now.astimezone(datetime.UTC).strftime(_BASIC_DATE)}",
        )


def _incomplete(message: str) -> errors.ApiError:
    return errors.ApiError(errors.INCOMPLETE_SIGNATURE, f"cannot verify the signature: {message}")
