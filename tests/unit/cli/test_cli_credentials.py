"""The ConfigMap with temporary keys, as the node that TEMP_AKSK_CM names it for reads it."""

import datetime

import pytest
from typer import testing

from kci.cli import credentials, main
from kci.contract import credentials as api
from kci.kit import errors, secret
from kci.provider import aksk

ISSUED = api.IssuedCredentials(
    access_key_id="AK", secret_access_key="SK", security_token="T", expiration="2026-02-01T00:00:00Z"
)


@pytest.mark.guide("env TEMP_AKSK_CM")
def test_the_node_reads_what_was_issued_and_may():
    config_map, role, binding = credentials.to_manifest(ISSUED, name="user-temp-aksk", node_name="vk")[
        "items"
    ]
    assert config_map["metadata"] == {"name": "user-temp-aksk", "namespace": "kube-system"}
    now = datetime.datetime(2026, 1, 31, tzinfo=datetime.UTC)
    keys = aksk.read(config_map["data"], secret.Secret(""), now=now, strict_end=True)
    assert (keys.credentials.access_key, keys.credentials.secret_key.reveal()) == ("AK", "SK")
    assert keys.credentials.security_token == secret.Secret("T")
    assert keys.expires_at == datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC)
    assert role["rules"][0]["resourceNames"] == ["user-temp-aksk"]
    assert set(role["rules"][0]["verbs"]) == {"get", "list", "watch"}
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == "system:node:vk"


def test_without_a_stack_it_says_what_to_do(tmp_path):
    result = testing.CliRunner().invoke(main.app, ["credentials", "issue", "--state-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "run `kci up`" in str(result.exception)


def test_what_is_missing_of_the_operators_keys_is_named(tmp_path):
    (tmp_path / "kci.env").write_text("KCI_ACCESS_KEY=a\nKCI_REGION=r\n")
    result = testing.CliRunner().invoke(main.app, ["credentials", "issue", "--state-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert isinstance(result.exception, errors.UserError)
    assert "KCI_SECRET_KEY, KCI_ENDPOINT missing in" in str(result.exception)
