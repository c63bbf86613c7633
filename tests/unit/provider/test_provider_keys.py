"""Which key pair the environment names."""

import base64
import pathlib

import pytest
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from kci.contract import signing
from kci.kit import secret
from kci.kube import resources
from kci.provider import credentials, key_settings

KEY = "k" * 32
STATIC = {"KCI_ACCESS_KEY": " AK ", "KCI_SECRET_KEY": "SK"}


def read(**environment):
    problems = []
    return key_settings.read(environment, problems), problems


def fixed(access_key, secret_key, token=None):
    keys = signing.Credentials(access_key, secret.Secret(secret_key), token and secret.Secret(token))
    return key_settings.Fixed(keys)


def config_map(name):
    return credentials.Reference(resources.CONFIG_MAPS, name, "kube-system")


@pytest.mark.guide("env KCI_ACCESS_KEY")
@pytest.mark.guide("env KCI_SECRET_KEY")
@pytest.mark.parametrize(
    "more", [{}, {"TEMP_AKSK_CM": "user-temp-aksk"}, {"AKSK_FILE_PATH": "/x"}, {"AK": "other", "SK": "other"}]
)
def test_static_keys_count_before_all_others(more):
    assert read(**STATIC, **more) == (fixed("AK", "SK"), [])


@pytest.mark.guide("env TEMP_AKSK_CM")
def test_without_static_keys_the_config_map_in_kube_system_is_followed():
    found, problems = read(TEMP_AKSK_CM="user-temp-aksk", AKSK_CIPHER_KEY=KEY, AK="other", SK="other")
    assert (found, problems) == (
        key_settings.InCluster((config_map("user-temp-aksk"),), secret.Secret(KEY)), []
    )  # fmt: skip
    assert str(found.references[0]) == "ConfigMap kube-system/user-temp-aksk"


@pytest.mark.guide("env TEMP_AKSK_SECRET")
def test_a_secret_stands_in_for_the_config_map_or_alone():
    (found, _), (alone, _) = read(TEMP_AKSK_CM="a", TEMP_AKSK_SECRET="b"), read(TEMP_AKSK_SECRET="b")
    named = credentials.Reference(resources.SECRETS, "b", "kube-system")
    assert found.references == (config_map("a"), named)
    assert alone.references == (named,)


@pytest.mark.guide("env AKSK_FILE_PATH")
@pytest.mark.parametrize(("value", "path"), [("", "/var/lib/aksk"), ("/some/where", "/some/where")])
def test_a_folder_is_named_or_the_usual_one(value, path):
    found, problems = read(AKSK_FILE_PATH=value, AK="other", SK="other")
    assert (found, problems) == (key_settings.InFolder(pathlib.Path(path), secret.Secret("")), [])


@pytest.mark.guide("env AK", "env SK", "env SECURITY_TOKEN", "env AKSK_ENCRYPT", "env AKSK_CIPHER_KEY")
def test_kingsofts_own_variables_are_the_last():
    assert read(AK="AK", SK="SK", SECURITY_TOKEN="T") == (fixed("AK", "SK", "T"), [])
    padder = padding.PKCS7(128).padder()
    sealer = Cipher(algorithms.AES(KEY.encode()), modes.CBC(KEY.encode()[:16])).encryptor()
    sealed = base64.b64encode(sealer.update(padder.update(b"SK") + padder.finalize()) + sealer.finalize())
    environment = {"AK": "AK", "SK": sealed.decode(), "AKSK_ENCRYPT": "true", "AKSK_CIPHER_KEY": KEY}
    assert read(**environment) == (fixed("AK", "SK"), [])


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, ["TEMP_AKSK_CM", "KCI_ACCESS_KEY", "KCI_SECRET_KEY"]),
        ({"KCI_ACCESS_KEY": "AK"}, ["KCI_SECRET_KEY is missing"]),
        ({"KCI_SECRET_KEY": "SK", "TEMP_AKSK_CM": "x"}, ["KCI_ACCESS_KEY is missing"]),
        ({"AK": "AK"}, ["give both"]),
        ({"AK": "AK", "SK": "SK", "AKSK_ENCRYPT": "yes"}, ["AKSK_ENCRYPT"]),
        (
            {"AK": "AK", "SK": "canary!", "AKSK_ENCRYPT": "true", "AKSK_CIPHER_KEY": KEY},
            ["SK cannot be used"],
        ),
        ({"TEMP_AKSK_CM": "x", "AKSK_CIPHER_KEY": "canary"}, ["AKSK_CIPHER_KEY is neither"]),
    ],
)
def test_what_is_wrong_is_named_without_the_secret(environment, words):
    found, problems = read(**environment)
    assert all(word in " ".join(problems) for word in words), problems
    assert "canary" not in repr((found, problems))
