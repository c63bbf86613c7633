"""What an endpoint may answer, and what the caller is told of it."""

import json

import pytest

from kci.client import answers, errors
from kci.contract import groups


def read(status, body, **more):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return answers.read(answers.Reply(status=status, body=raw, **more), groups.ContainerGroups, action="X")


def error(code, message="m"):
    return {"RequestId": "r-1", "Error": {"Type": "Sender", "Code": code, "Message": message}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, error("ContainerGroupNotFound"), errors.NotFoundError),
        (400, error("InvalidKci", "container group not found"), errors.NotFoundError),
        (400, error("InvalidParameter", "\u5b9e\u4f8b\u4e0d\u5b58\u5728"), errors.NotFoundError),
        (400, error("InvalidParameterValue", "subnet not found"), errors.InvalidError),
        (403, error("AccessKeyNotFound", "access key not found"), errors.RefusedError),
        (400, error("SecurityTokenExpired"), errors.RefusedError),
        (403, error("SignatureDoesNotMatch"), errors.RefusedError),
        (409, error("InsufficientAddresses"), errors.ConflictError),
        (400, error("QuotaLimitExceeded"), errors.ConflictError),
        (429, error("Whatever"), errors.TryLaterError),
        (503, error("ServiceUnavailable"), errors.TryLaterError),
        (500, error("INTERNAL_FAILURE"), errors.UnreachableError),
        (200, error("MissingParameter"), errors.InvalidError),
        (400, {"code": "MissingParameter", "message": "x", "codeDesc": "y"}, errors.InvalidError),
    ],
)
def test_a_stated_error_says_what_can_be_done(status, body, kind):
    with pytest.raises(errors.KciError) as caught:
        read(status, body)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"<html>not found</html>"),
        (404, b"not found"),
        (404, {}),
        (502, b"bad gateway"),
        (302, b""),
        (200, b""),
        (200, b"[]"),
        (200, b'{"TotalCount": "many"}'),
        (200, b'{"ContainerGroups": [{"Status": "Running"}]}'),
        (200, b'{"RequestId":'),
        (200, b"\xff"),
        (200, b"[" * 100_000),
    ],
)
def test_what_is_no_kci_answer_is_evidence_of_nothing(status, body):
    with pytest.raises(errors.UnreachableError) as caught:
        read(status, body)
    assert caught.value.reached is None


def test_unknown_fields_nulls_and_loose_numbers_are_borne():
    group = {"ContainerGroupId": "g", "Cpu": 2.0, "Memory": "4", "Gpu": None, "Labels": None, "New": [1]}
    page = read(200, {"RequestId": "r", "TotalCount": "1", "Marker": None, "ContainerGroups": [group]})
    assert (page.total_count, page.marker, page.container_groups[0].cpu) == (1, 0, 2)


def test_the_time_to_wait_is_told():
    with pytest.raises(errors.TryLaterError) as caught:
        read(429, error("TooManyRequests"), retry_after="7")
    assert (caught.value.retry_after_s, caught.value.code, caught.value.request_id) == (
        7,
        "TooManyRequests",
        "r-1",
    )
