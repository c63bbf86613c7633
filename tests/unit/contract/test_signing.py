"""The signature: AWS's own vectors, our two sides against each other, and everything that must be refused."""

import dataclasses
import datetime
import hashlib

import pytest
from fakes import presigned
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kci.contract import errors, signing
from kci.kit import secret

NOW = datetime.datetime(2026, 11, 23, 10, 0, tzinfo=datetime.UTC)
REGION = "cn-beijing-6"
SECRET = secret.Secret("sk-of-alice")
KEYS = signing.Credentials("AKALICE", SECRET)

AWS_SECRET = secret.Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
AWS_TIME = datetime.datetime(2015, 8, 30, 12, 36, tzinfo=datetime.UTC)
AWS_HEADERS = [("Host", "example.amazonaws.com"), ("X-Amz-Date", "20150830T123600Z")]
UNRESERVED = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("request_", "signature"),
    [
        pytest.param(
            signing.Request("GET", "/", [], AWS_HEADERS),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            id="get-vanilla",
        ),
        pytest.param(
            signing.Request("POST", "/", [], AWS_HEADERS),
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            id="post-vanilla",
        ),
        pytest.param(
            signing.Request("GET", "/", [("Param2", "value2"), ("Param1", "value1")], AWS_HEADERS),
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            id="get-vanilla-query-order-key-case",
        ),
        pytest.param(
            signing.Request("GET", "/", [(UNRESERVED, UNRESERVED)], AWS_HEADERS),
            "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
            id="get-vanilla-query-unreserved",
        ),
        pytest.param(
            signing.Request("GET", f"/{UNRESERVED}", [], AWS_HEADERS),
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
            id="get-unreserved",
        ),
        pytest.param(
            signing.Request("GET", "/\u1234", [], AWS_HEADERS),
            "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
            id="get-utf8",
        ),
        pytest.param(
            signing.Request(
                "GET", "/", [], [*AWS_HEADERS, ("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')]
            ),
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            id="get-header-value-trim",
        ),
        pytest.param(
            signing.Request(
                "GET", "/", [], [*AWS_HEADERS, *(("My-Header1", v) for v in ("value2", "value2", "value1"))]
            ),
            "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
            id="get-header-key-duplicate",
        ),
        pytest.param(
            signing.Request(
                "POST",
                "/",
                [],
                [*AWS_HEADERS, ("Content-Type", "application/x-www-form-urlencoded")],
                b"Param1=value1",
            ),
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            id="post-x-www-form-urlencoded",
        ),
    ],
)
def test_amazons_test_suite_is_kept(request_, signature):
    scope = signing.Scope(date="20150830", region="us-east-1", service="service")
    names = sorted({name.lower() for name, _ in request_.headers})
    body_hash = hashlib.sha256(request_.body).hexdigest()
    assert signing.signature_of(request_, scope, AWS_TIME, names, body_hash, AWS_SECRET) == signature


def test_amazons_documented_example_is_kept():
    request = signing.Request(
        "GET",
        "/",
        [("Action", "ListUsers"), ("Version", "2010-05-08")],
        [
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("host", "iam.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
        ],
    )
    scope = signing.Scope(date="20150830", region="us-east-1", service="iam")
    names = ("content-type", "host", "x-amz-date")
    empty = hashlib.sha256(b"").hexdigest()
    assert (
        signing.signature_of(request, scope, AWS_TIME, names, empty, AWS_SECRET)
        == "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )


def signed(*, query=(), body=b"Action=DescribeContainerGroup", keys=KEYS, now=NOW):
    bare = signing.Request(
        "POST",
        "/",
        list(query),
        [("Host", "127.0.0.1:7480"), ("Content-Type", "application/x-www-form-urlencoded")],
        body,
    )
    added = signing.sign(bare, keys, region=REGION, now=now)
    return dataclasses.replace(bare, headers=[*bare.headers, *added])


def signed_in_query(*, expires_s=None, now=NOW):
    bare = signing.Request("GET", "/", [("Action", "DescribeContainerGroup")], [("Host", "h:1")])
    added = presigned.sign(bare, KEYS, region=REGION, now=now, expires_s=expires_s)
    return dataclasses.replace(bare, query=[*bare.query, *added])


def verify(request, *, now=NOW, secret_key=SECRET, skew_s=300):
    claim = signing.read_claim(request, region=REGION, now=now, skew_s=skew_s)
    # The access key itself is not signed: another one leads to another secret, or to none.
    signing.check_signature(request, claim, secret_key if claim.access_key == KEYS.access_key else None)
    return claim


def refusal(request, **changes):
    with pytest.raises(errors.ApiError) as caught:
        verify(request, **changes)
    return caught.value.entry.code


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=200)
@given(st.lists(st.tuples(text, text), max_size=6), st.binary(max_size=64))
def test_what_we_sign_we_accept(query, body):
    known = {"x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires", "x-amz-signedheaders"}
    assume(not any(name.lower() in {*known, "x-amz-signature"} for name, _ in query))
    assert verify(signed(query=query, body=body)).access_key == "AKALICE"


@pytest.mark.parametrize("request_", [signed(), signed_in_query()], ids=["header", "query"])
def test_the_claim_says_who_and_where(request_):
    claim = verify(request_)
    assert (claim.access_key, claim.scope.region, claim.timestamp) == ("AKALICE", REGION, NOW)


def test_a_token_may_be_signed_or_not():
    with_token = signing.Credentials("AKALICE", SECRET, secret.Secret("token-1"))
    assert verify(signed(keys=with_token)).security_token == "token-1"
    request = signed()
    unsigned = dataclasses.replace(request, headers=[*request.headers, ("X-Ksc-Security-Token", "token-1")])
    assert verify(unsigned).security_token == "token-1"


def test_an_unknown_key_and_a_wrong_secret_look_the_same():
    answers = []
    for secret_key in (None, secret.Secret("another")):
        with pytest.raises(errors.ApiError) as caught:
            verify(signed(), secret_key=secret_key)
        answers.append((caught.value.entry, str(caught.value)))
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("offset_s", "accepted"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)]
)
@pytest.mark.parametrize("make", [signed, signed_in_query])
def test_the_window_is_exact(make, offset_s, accepted):
    request = make(now=NOW + datetime.timedelta(seconds=offset_s))
    if accepted:
        verify(request)
    else:
        assert refusal(request) == "RequestExpired"


def test_an_expiry_shortens_a_requests_life_and_never_lengthens_it():
    later = NOW + datetime.timedelta(seconds=61)
    assert refusal(signed_in_query(expires_s=60), now=later) == "RequestExpired"
    verify(signed_in_query(expires_s=61), now=later)
    assert (
        refusal(signed_in_query(expires_s=604800), now=NOW + datetime.timedelta(hours=1)) == "RequestExpired"
    )
    for wrong in (0, 604801, -1):
        assert refusal(signed_in_query(expires_s=wrong)) == "IncompleteSignature"


@pytest.mark.requirement("R44")
@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_no_mutation_is_accepted(data):
    """One character changed anywhere that is signed: header values, query, path, method, body."""
    request = data.draw(st.sampled_from([signed(query=[("a", "b c")]), signed_in_query()]))
    mutated = _mutate(data, request)
    assume(mutated is not None)
    assert refusal(mutated) in {
        "SignatureDoesNotMatch",
        "IncompleteSignature",
        "RequestExpired",
        "MissingAuthenticationToken",
    }


def _mutate(data, request):
    def changed(value):
        place = data.draw(st.integers(0, max(0, len(value) - 1)))
        new = data.draw(st.sampled_from("aZ09/;=,-+% ~."))
        result = value[:place] + new + value[place + data.draw(st.integers(0, 1)) :]
        # White space is not part of what is signed.
        return None if result.split() == value.split() else result

    part = data.draw(st.sampled_from(["header", "query", "path", "method", "body", "drop", "repeat"]))
    headers, query = list(request.headers), list(request.query)
    if part in {"header", "drop", "repeat"}:
        place = data.draw(st.integers(0, len(headers) - 1))
        name, value = headers[place]
        if part == "header":
            new = changed(value)
            if new is None or (name == "Authorization" and _same_authorization(value, new)):
                return None
            headers[place] = (name, new)
        elif part == "drop":
            headers.pop(place)
        else:
            headers.append((name.upper(), value))
    elif part == "query":
        if not query:
            return None
        place = data.draw(st.integers(0, len(query) - 1))
        name, value = query[place]
        pair = (changed(name), value) if data.draw(st.booleans()) else (name, changed(value))
        if None in pair:
            return None
        query[place] = pair
    elif part == "path":
        return dataclasses.replace(request, path=request.path + data.draw(st.sampled_from(["/", "a", "%2F"])))
    elif part == "method":
        return dataclasses.replace(request, method="PUT")
    else:
        return dataclasses.replace(request, body=request.body + b"&a=b")
    return dataclasses.replace(request, headers=headers, query=query)


def _same_authorization(old, new):
    return [part.strip() for part in old.split(",")] == [part.strip() for part in new.split(",")]


def _with(request, *, drop=(), add=(), query=()):
    headers = [pair for pair in request.headers if pair[0].lower() not in drop]
    return dataclasses.replace(request, headers=[*headers, *add], query=[*request.query, *query])


def _authorization(request, old, new):
    headers = [
        (name, value.replace(old, new) if name == "Authorization" else value)
        for name, value in request.headers
    ]
    return dataclasses.replace(request, headers=headers)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (_with(signed(), drop=("authorization",)), "MissingAuthenticationToken"),
        (_with(signed(), query=[("X-Amz-Signature", "0" * 64)]), "IncompleteSignature"),
        (_with(signed_in_query(), add=[("Authorization", "AWS4-HMAC-SHA256 x")]), "IncompleteSignature"),
        (_with(signed_in_query(), query=[("x-amz-credential", "AKBOB")]), "IncompleteSignature"),
        (_with(signed_in_query(), query=[("X-Amz-Credential", "AKBOB")]), "IncompleteSignature"),
        (_with(signed(), add=[("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")]), "IncompleteSignature"),
        (_with(signed(), add=[("X-Amz-Evil", "1")]), "IncompleteSignature"),
        (_with(signed(), add=[("Host", "other")]), "IncompleteSignature"),
        (
            _with(signed(), drop=("x-amz-date",), add=[("x-amz-date", "20261123T100000")]),
            "IncompleteSignature",
        ),
        (_authorization(signed(), "/kci/", "/kec/"), "IncompleteSignature"),
        (_authorization(signed(), REGION, "cn-shanghai-2"), "IncompleteSignature"),
        (_authorization(signed(), "aws4_request", "aws5_request"), "IncompleteSignature"),
        (_authorization(signed(), "/20261123/", "/20261124/"), "IncompleteSignature"),
        (_authorization(signed(), "content-type;host", "content-type"), "IncompleteSignature"),
        (_authorization(signed(), "content-type;host", "host;content-type"), "IncompleteSignature"),
        (_authorization(signed(), "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), "IncompleteSignature"),
        (_with(signed(), add=[("X-Note", "\udcff")]), "IncompleteSignature"),
    ],
)
def test_a_request_that_is_not_exactly_in_form_is_refused(request_, code):
    assert refusal(request_) == code


def test_a_body_under_another_hash_is_refused():
    """The signature is right, for a body that did not come."""
    assert refusal(dataclasses.replace(signed(), body=b"Action=Delete")) == "SignatureDoesNotMatch"


def test_a_date_header_serves_where_no_other_is():
    bare = signing.Request("GET", "/", [], [("host", "h"), ("date", "Mon, 23 Nov 2026 10:00:00 GMT")])
    scope = signing.Scope(date="20261123", region=REGION)
    signature = signing.signature_of(
        bare, scope, NOW, ["date", "host"], hashlib.sha256(b"").hexdigest(), SECRET
    )
    value = f"AWS4-HMAC-SHA256 Credential=AKALICE/{scope}, SignedHeaders=date;host, Signature={signature}"
    verify(dataclasses.replace(bare, headers=[*bare.headers, ("Authorization", value)]))


@pytest.mark.parametrize(
    "date",
    [
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 99999999999999999999 Nov 2026 10:00:00 GMT",
        "Mon, 23 Nov 99999999999999999999 10:00:00 GMT",
    ],
)
def test_a_date_header_beyond_all_time_is_refused(date):
    value = (
        f"AWS4-HMAC-SHA256 Credential=AKALICE/20261123/{REGION}/kci/aws4_request,"
        f" SignedHeaders=host, Signature={'0' * 64}"
    )
    request = signing.Request("GET", "/", [], [("host", "h"), ("date", date), ("Authorization", value)])
    assert refusal(request) == "IncompleteSignature"
