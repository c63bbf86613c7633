import base64
import json

import canaries as nets
import leaks
import outputs
import pytest


def reading(things=None, **amounts):
    return leaks.Reading(things=things or {}, amounts={"kcilet": amounts} if amounts else {})


def test_things_must_come_back_and_amounts_have_room():
    before = reading({"shims": frozenset({"1"}), "mounts": frozenset()}, descriptors=30, tasks=10)
    assert leaks.compare(before, before) == []
    assert leaks.compare(before, reading({"shims": frozenset(), "mounts": frozenset()}, descriptors=50)) == []
    assert leaks.compare(before, reading({"shims": frozenset({"1", "2"})})) == ["shims: 2"]
    assert leaks.compare(before, reading({"veths": frozenset("a")})) == ["veths: a"]
    (problem,) = leaks.compare(before, reading(descriptors=30 + leaks.ROOM["descriptors"] + 1, tasks=10))
    assert "descriptors of kcilet" in problem


def test_a_program_that_was_restarted_or_is_away_is_no_leak():
    assert leaks.compare(reading(descriptors=30), reading()) == []
    assert leaks.compare(reading(), reading(descriptors=1000)) == []


def test_a_marker_is_found_in_an_output_and_not_in_what_keeps_secrets(tmp_path):
    net = nets.Canaries()
    marker = net.plant("a registry password")
    for name in (
        "logs/kcilet.log",
        "state.json",
        "service/kci.db",
        "logs/audit.jsonl",
        "etcd/wal",
        "kci.env",
        "kcilet/pods/u1/volumes/v/key",
        "kcilet/pods/u1/files/etc-hosts",
        "kcilet/served-store",
        "kcilet/commands/1",
        "containerd/config.toml",
        "containerd/state/io.containerd.runtime.v2.task/k8s.io/c1/config.json",
        "containerd/state/io.containerd.runtime.v2.task/k8s.io/c1/log.json",
        "containerd/root/io.containerd.metadata.v1.bolt/meta.db",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"x {marker} y")
    found = nets.search_line(net, tmp_path, shown={"events": json.dumps({"message": marker}), "pods": "none"})
    assert sorted(line.replace(str(tmp_path), "") for line in found) == [
        "/containerd/config.toml holds a registry password",
        "/containerd/state/io.containerd.runtime.v2.task/k8s.io/c1/log.json holds a registry password",
        "/kcilet/commands/1 holds a registry password",
        "/kcilet/pods/u1/files/etc-hosts holds a registry password",
        "/kcilet/served-store holds a registry password",
        "/logs/kcilet.log holds a registry password",
        "/service/kci.db holds a registry password",
        "/state.json holds a registry password",
        "events shows a registry password",
    ]
    # what tells of a secret must not tell the secret
    assert marker not in "".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: AWS4-HMAC-SHA256 Credential=AK/2026/x/kci/aws4_request",
        f"X-Amz-Security-Token: AQ{'a-_9' * 20}==",
        repr([("x-amz-security-token", f"AQ{'a-_9' * 20}==")]),
        json.dumps(json.dumps({"SecurityToken": f"AQ{'a-_9' * 20}=="})),
        f"IssuedCredentials(secret_access_key='{'a-_9' * 10}')",
        json.dumps({"SecretAccessKey": "a-_9" * 10}),
        "token eyJhbGciOiJSUzI1NiIsImtpZCI6I.eyJhdWQiOlsiaHR0cHM6Ly9rdWJlcm5ldGVz.sig",
        "-----BEGIN EC PRIVATE KEY-----",
        *(
            base64.b64encode(f"-----BEGIN {kind}PRIVATE KEY-----".encode()).decode()
            for kind in ("", "EC ", "RSA ")
        ),
        "client-key-data: xyz",
        "ws://10.0.0.1:8180/exec?token=abcdefghijklmnopqrstu",
    ],
)
def test_secrets_that_nobody_planted_are_known_by_their_form(text):
    assert list(nets.Canaries().find(text.encode()))
    assert not list(nets.Canaries().find(b'{"event": "request served", "path": "/exec", "token": "***"}'))


def test_what_a_test_wrote_is_an_output_too():
    signed = "Authorization: AWS4-HMAC-SHA256 Credential=AK/2026/x"
    assert outputs.secrets_in([("Captured stderr call", signed)]) == ["a signature (by its form)"]
    assert outputs.secrets_in([("Captured stderr call", "request served"), ("replay", signed)]) == []
