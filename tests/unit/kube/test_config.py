"""Kubeconfigs: what is read, what is refused and why."""

import base64
import dataclasses

import pytest
import yaml

from kci.kit import secret
from kci.kube import config, errors

FULL = config.ClusterConfig(
    server="https://192.0.2.1:6443",
    ca_pem="CA",
    client_certificate_pem="CERT",
    client_key_pem=secret.Secret("KEY"),
    token=secret.Secret("TOKEN"),
    tls_server_name="kubernetes",
)


def document(cluster=None, user=None, **top):
    return yaml.safe_dump(
        {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://a:1", **(cluster or {})}}],
            "users": [{"name": "u", "user": user or {}}],
            **top,
        }
    )


def test_what_is_rendered_is_parsed_again_as_text_and_as_base64():
    text = config.render(FULL)
    assert config.parse(text) == FULL
    assert config.parse(base64.encodebytes(text.encode()).decode()) == FULL
    assert config.parse(config.render(FULL, server="https://other:1")) == dataclasses.replace(
        FULL, server="https://other:1"
    )


def test_no_secret_shows_in_a_representation():
    assert "KEY" not in repr(FULL)
    assert "TOKEN" not in repr(FULL)


def test_a_single_context_needs_no_current_one():
    assert config.parse(document(**{"current-context": ""})).server == "https://a:1"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "no YAML"),
        ("just text: no", "current-context"),
        ("!!!!", "no mapping|no YAML"),
        ("aGVsbG8gd29ybGQ=", "no mapping"),
        (document(**{"current-context": "other"}), "no 'other' among its contexts"),
        (document(cluster={"server": "192.0.2.1:6443"}), "https://host:port"),
        (document(cluster={"proxy-url": "http://p"}), "proxy-url"),
        (document(cluster={"certificate-authority": "/etc/ca.crt"}), "names a file"),
        (document(user={"client-key": "/etc/shadow"}), "names a file"),
        (document(user={"tokenFile": "/etc/shadow"}), "names a file"),
        (document(user={"exec": {"command": "sh"}}), "credential program"),
        (document(user={"client-certificate-data": "%%"}), "no base64"),
        (document(clusters=[]), "no 'c' among its clusters"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(text, why):
    with pytest.raises(errors.KubeconfigError, match=why):
        config.parse(text)


def test_an_operators_file_may_name_files_beside_it(tmp_path):
    (tmp_path / "ca.crt").write_text("CA")
    (tmp_path / "token").write_text("T1\n")
    path = tmp_path / "config"
    path.write_text(document(cluster={"certificate-authority": "ca.crt"}, user={"tokenFile": "token"}))
    found = config.load(path)
    assert (found.ca_pem, found.token) == ("CA", secret.Secret("T1"))
    assert found.token_file == tmp_path / "token"
    with pytest.raises(errors.KubeconfigError, match="cannot read the kubeconfig"):
        config.load(tmp_path / "none")


def test_a_file_that_is_no_kubeconfig_is_named_with_what_to_do(tmp_path):
    file = tmp_path / "kubeconfig"
    file.write_text("apiVersion: [v1")
    with pytest.raises(errors.KubeconfigError) as told:
        config.load(file)
    assert str(told.value) == (
        f"cannot read a kubeconfig: it is no YAML; get it anew from where it came (in {file})"
    )


def test_outside_a_pod_there_is_no_cluster():
    with pytest.raises(errors.KubeconfigError, match="not in a pod"):
        config.in_cluster({})
