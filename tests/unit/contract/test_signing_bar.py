"""The door's bar: the rest of AWS's vectors, ten thousand mutations of requests, and time to the second."""

import dataclasses
import datetime
import hashlib
import random
import string

import pytest
from fakes import presigned

from kci.contract import errors, signing, wire
from kci.kit import secret

REGION = "cn-beijing-6"
NOW = datetime.datetime(2026, 11, 23, 10, 0, tzinfo=datetime.UTC)
KEYS = signing.Credentials("AKALICE", secret.Secret("sk-of-alice"))
FORM = "application/x-www-form-urlencoded"

AWS_SECRET = secret.Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
AWS_TIME = datetime.datetime(2015, 8, 30, 12, 36, tzinfo=datetime.UTC)
AWS_HEADERS = [("Host", "example.amazonaws.com"), ("X-Amz-Date", "20150830T123600Z")]


def aws(method="GET", path="/", query="", headers=(), body=b""):
    return signing.Request(method, path, wire.parse_pairs(query), [*AWS_HEADERS, *headers], body)


# Not here: paths that AWS normalizes before signing, as ours is always "/", and what test_signing.py has.
# get-header-value-multiline folds a header over lines, which HTTP has done away with.
@pytest.mark.requirement("R44")
@pytest.mark.parametrize(
    ("request_", "signature"),
    [
        pytest.param(
            aws(headers=[("My-Header1", value) for value in ("value4", "value1", "value3", "value2")]),
            "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
            id="get-header-value-order",
        ),
        pytest.param(
            aws(query="Param1=value1"),
            "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
            id="get-vanilla-empty-query-key",
        ),
        pytest.param(
            aws(query="Param1=value2&Param1=Value1"),
            "eedbc4e291e521cf13422ffca22be7d2eb8146eecf653089df300a15b2382bd1",
            id="get-vanilla-query-order-key",
        ),
        pytest.param(
            aws(query="Param1=value2&Param1=value1"),
            "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694",
            id="get-vanilla-query-order-value",
        ),
        pytest.param(
            aws(query="\u1234=bar"),
            "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
            id="get-vanilla-utf8-query",
        ),
        pytest.param(
            aws("POST", headers=[("My-Header1", "value1")]),
            "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
            id="post-header-key-sort",
        ),
        pytest.param(
            aws("POST", headers=[("My-Header1", "VALUE1")]),
            "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
            id="post-header-value-case",
        ),
        pytest.param(
            aws("POST", query="Param1=value1"),
            "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
            id="post-vanilla-query",
        ),
        pytest.param(
            aws("POST", headers=[("Content-Type", f"{FORM}; charset=utf8")], body=b"Param1=value1"),
            "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe",
            id="post-x-www-form-urlencoded-parameters",
        ),
    ],
)
def test_the_rest_of_amazons_test_suite_is_kept(request_, signature):
    scope = signing.Scope(date="20150830", region="us-east-1", service="service")
    names = sorted({name.lower() for name, _ in request_.headers})
    body_hash = hashlib.sha256(request_.body).hexdigest()
    assert signing.signature_of(request_, scope, AWS_TIME, names, body_hash, AWS_SECRET) == signature


# ---- requests as they come over the wire, in the forms that clients send


@dataclasses.dataclass(frozen=True)
class Raw:
    """Before anything is decoded: what a mutation changes."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def by_header(*, query="", body=b"", kind=FORM, extra=(), hashed=True):
    """Signed in the header; without the body's hash as a header it is what Kingsoft's Go SDK sends, with it
    what the Python SDK and our client send.
    """
    method = "POST" if body else "GET"
    headers = [("Host", "kci.api.ksyun.com"), *([("Content-Type", kind)] if kind else []), *extra]
    parts = signing.Request(method, "/", wire.parse_pairs(query), headers, body)
    if hashed:
        return Raw(method, "/", query, (*headers, *signing.sign(parts, KEYS, region=REGION, now=NOW)), body)
    headers.append(("X-Amz-Date", NOW.strftime("%Y%m%dT%H%M%SZ")))
    scope = signing.Scope(NOW.strftime("%Y%m%d"), REGION)
    names = sorted(name.lower() for name, _ in headers)
    signature = signing.signature_of(
        dataclasses.replace(parts, headers=headers), scope, NOW, names,
        hashlib.sha256(body).hexdigest(), KEYS.secret_key,
    )  # fmt: skip
    value = (
        f"AWS4-HMAC-SHA256 Credential={KEYS.access_key}/{scope},"
        f" SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    return Raw(method, "/", query, (*headers, ("Authorization", value)), body)


def by_query(*, query="", expires_s=None):
    headers = [("Host", "kci.api.ksyun.com")]
    parts = signing.Request("GET", "/", wire.parse_pairs(query), headers)
    added = presigned.sign(parts, KEYS, region=REGION, now=NOW, expires_s=expires_s)
    return Raw("GET", "/", f"{query}&{wire.encode_pairs(added)}", tuple(headers), b"")


REQUESTS = [
    by_header(body=b"Action=DeleteContainerGroup&ContainerGroupId=abc&Version=2020-07-02"),
    by_header(query="Action=DescribeContainerGroup&Search=a+b%2Bc&Marker=0", kind=""),
    by_header(query="Accesskey=AKALICE&Service=kci", body=b"Action=DescribeContainerGroup&Filter.1.Name=x"),
    by_header(query="Action=DescribeContainerGroup&AccountId=", extra=[("User-Agent", "x")], hashed=False),
    by_header(body=b"Action=CreateContainerGroup&KubeConfig=a%0Ab+c%20d&Empty=", hashed=False),
    by_header(body=b'{"Action":"DescribeContainerGroup"}', kind="application/json"),
    by_query(query="Action=DescribeContainerGroup&Search=a+b"),
    by_query(query="Action=DeleteContainerGroup&ContainerGroupId=abc", expires_s=60),
]


def verify(raw, *, now=NOW, skew_s=300):
    """What the verifier does; returns what a handler would act on."""
    request = signing.Request(raw.method, raw.path, wire.parse_pairs(raw.query), list(raw.headers), raw.body)
    claim = signing.read_claim(request, region=REGION, now=now, skew_s=skew_s)
    known = KEYS.secret_key if claim.access_key == KEYS.access_key else None
    signing.check_signature(request, claim, known)
    return request.method.upper(), request.path, sorted(signing.parameters_of(request.query)), request.body


@pytest.mark.requirement("R44")
def test_ten_thousand_mutations_change_nothing_or_are_refused(runs):
    """A mutated request is taken only if it still says the same to whoever acts on it."""
    meant = [verify(raw) for raw in REQUESTS]
    refused = 0
    for number in range(runs.scale(quick=10_000, faults=50_000, release=200_000)):
        chance = runs.random(number)
        place = chance.randrange(len(REQUESTS))
        mutated = MUTATIONS[number % len(MUTATIONS)](REQUESTS[place], chance)
        try:
            said = verify(mutated)
        except errors.ApiError:
            refused += 1
        else:
            assert said == meant[place], mutated
    assert refused > runs.count * 0.7


@pytest.mark.requirement("R44")
def test_a_plus_is_a_space_to_the_signature_and_to_who_acts():
    meant = [("Action", "DescribeContainerGroup"), ("Search", "a b+c")]
    headers = [("Host", "h")]
    parts = signing.Request("GET", "/", meant, headers)
    signed = (*headers, *signing.sign(parts, KEYS, region=REGION, now=NOW))
    for text in ("Search=a+b%2Bc", "Search=a%20b%2Bc", "Search=a%20b%2bc"):
        raw = Raw("GET", "/", f"Action=DescribeContainerGroup&{text}", signed, b"")
        assert verify(raw)[2] == meant
    for text in ("Search=a%2Bb%2Bc", "Search=a+b+c", "Search=a%20b%20c", "Search=a%2520b%2Bc"):
        with pytest.raises(errors.ApiError):
            verify(Raw("GET", "/", f"Action=DescribeContainerGroup&{text}", signed, b""))


def _text(text, chance):
    """One character more, less or other."""
    place = chance.randrange(len(text) + 1)
    new = chance.choice([*string.printable, "%20", "+", "\u1234"])
    return text[:place] + chance.choice(["", new]) + text[place + chance.randint(0, 1) :]


def _bytes(raw, chance):
    return dataclasses.replace(raw, body=_text(raw.body.decode(), chance).encode())


def _query(raw, chance):
    return dataclasses.replace(raw, query=_text(raw.query, chance))


def _path(raw, chance):
    return dataclasses.replace(
        raw, path=raw.path + chance.choice(["/", ".", "a", "%2F", "/../", "?", "\u1234"])
    )


def _method(raw, chance):
    return dataclasses.replace(raw, method=chance.choice(["GET", "POST", "PUT", "DELETE", "get", "post", ""]))


def _header(raw, chance):
    headers = list(raw.headers)
    place = chance.randrange(len(headers))
    name, value = headers[place]
    headers[place] = (name, _text(value, chance))
    return dataclasses.replace(raw, headers=tuple(headers))


def _headers(raw, chance):
    """Dropped, repeated, renamed, in another order, or one more."""
    headers = list(raw.headers)
    place = chance.randrange(len(headers))
    name, value = headers[place]
    match chance.randrange(5):
        case 0:
            headers.pop(place)
        case 1:
            headers.insert(chance.randrange(len(headers)), (name.swapcase(), _text(value, chance)))
        case 2:
            headers[place] = (_text(name, chance), value)
        case 3:
            chance.shuffle(headers)
        case _:
            headers.append((chance.choice(["X-Amz-New", "X-Amz-Date", "Date", "Host", "X-Other"]), value))
    return dataclasses.replace(raw, headers=tuple(headers))


def _scope(raw, chance):
    """Another service, region, date or end, another key, other signed headers or hash."""
    old, new = chance.choice(
        [
            ("/kci/", "/kec/"), (REGION, "cn-shanghai-2"), ("20261123", "20261122"),
            ("aws4_request", "aws4_requests"), ("AKALICE", "AKBOB"), ("AKALICE", ""),
            ("host", "host;x-other"), ("host;", ""), ("host", "Host"), ("SHA256", "SHA1"),
            ("T100000Z", "T100001Z"), ("T100000Z", "T100000"),
        ]
    )  # fmt: skip
    headers = tuple((name, value.replace(old, new)) for name, value in raw.headers)
    return dataclasses.replace(raw, headers=headers, query=raw.query.replace(old, new))


def _hash(raw, chance):
    wrong = chance.choice(
        [
            "",
            "UNSIGNED-PAYLOAD",
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            hashlib.sha256(b"").hexdigest(),
            "0" * 64,
        ]
    )
    kept = [pair for pair in raw.headers if pair[0].lower() != "x-amz-content-sha256"]
    return dataclasses.replace(raw, headers=(*kept, ("x-amz-content-sha256", wrong)), body=raw.body + b"&x=y")


def _parameters(raw, chance):
    """One more parameter, the same again, or a signature of the other form beside the first."""
    more = chance.choice(
        ["Action=DeleteContainerGroup", "AccountId=tenant-bob", "X-Amz-Expires=604800", "X-Amz-Signature=0",
         "X-Amz-Credential=AKBOB", "x-amz-credential=AKBOB", "X-Amz-Algorithm=AWS4-HMAC-SHA256",
         chance.choice(raw.query.split("&")) or "a=b"]
    )  # fmt: skip
    return dataclasses.replace(raw, query=chance.choice([f"{raw.query}&{more}", f"{more}&{raw.query}"]))


MUTATIONS = [
    _bytes, _query, _path, _method, _header, _header, _headers, _scope, _hash, _parameters
]  # fmt: skip


@pytest.mark.requirement("R44")
def test_every_form_that_clients_send_is_accepted(runs):
    """No false refusals: parameters of any content, signed in each of the forms."""
    for number in range(runs.scale(quick=1000, faults=10_000, release=50_000)):
        chance = runs.random(number)
        pairs = wire.encode_pairs([(_word(chance), _word(chance)) for _ in range(chance.randrange(5))])
        pairs = pairs.replace("%20", chance.choice(["%20", "+"]))
        verify(by_header(query=pairs, body=pairs.encode(), hashed=chance.random() < 0.5))
        verify(by_query(query=pairs))


def _word(chance: random.Random) -> str:
    return "".join(chance.choices(string.printable + "\u1234\u00e9\U0001f600", k=chance.randint(1, 12)))


# ---- time


@pytest.mark.requirement("R45")
@pytest.mark.parametrize(
    ("offset_s", "expires_s", "code"),
    [
        # In the header's form and in the query's without an expiry: five minutes either way.
        (-301, None, "RequestExpired"), (-300, None, ""), (-299, None, ""), (0, None, ""), (299, None, ""),
        (300, None, ""), (301, None, "RequestExpired"),
        # An expiry shortens a request's life after its time; it lengthens nothing, and may be a week at most.
        (0, 0, "IncompleteSignature"), (0, 1, ""), (1, 1, ""), (2, 1, "RequestExpired"), (60, 60, ""),
        (61, 60, "RequestExpired"), (-300, 60, ""), (-301, 60, "RequestExpired"), (300, 604_800, ""),
        (301, 604_800, "RequestExpired"), (0, 604_800, ""), (0, 604_801, "IncompleteSignature"),
        (0, -1, "IncompleteSignature"),
    ],
)  # fmt: skip
def test_the_window_is_exact_to_the_second(offset_s, expires_s, code):
    """`offset_s` is how old the request is by the service's clock."""
    now = NOW + datetime.timedelta(seconds=offset_s)
    forms = [by_query(query="a=b", expires_s=expires_s)]
    if expires_s is None:
        forms += REQUESTS[:6]
    for raw in forms:
        if not code:
            verify(raw, now=now)
            continue
        with pytest.raises(errors.ApiError) as caught:
            verify(raw, now=now)
        assert caught.value.entry.code == code


@pytest.mark.requirement("R45")
@pytest.mark.parametrize("other", ["20261122", "20261124", "20251123", "2026112", "00000000"])
def test_the_scopes_date_is_the_requests(other):
    for raw in REQUESTS[:6]:
        headers = tuple((name, value.replace("/20261123/", f"/{other}/")) for name, value in raw.headers)
        with pytest.raises(errors.ApiError) as caught:
            verify(dataclasses.replace(raw, headers=headers))
        assert caught.value.entry.code == "IncompleteSignature"


@pytest.mark.requirement("R45")
def test_a_request_signed_before_midnight_is_good_after_it():
    late = datetime.datetime(2026, 11, 23, 23, 59, 58, tzinfo=datetime.UTC)
    headers = [("Host", "h")]
    parts = signing.Request("GET", "/", [], headers)
    raw = Raw("GET", "/", "", (*headers, *signing.sign(parts, KEYS, region=REGION, now=late)), b"")
    verify(raw, now=late + datetime.timedelta(seconds=5))
