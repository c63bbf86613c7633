"""Kingsoft's form of a key pair: fields, ciphers, ends, and which pair is used."""

import base64
import datetime

import pytest
from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from kci.contract import signing
from kci.kit import secret
from kci.provider import aksk

NOW = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
SK = "a-secret-key/with+signs=="
NO_KEY = secret.Secret("")
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key, form=serialization.PrivateFormat.TraditionalOpenSSL):
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def by_aes(text, key):
    padder = padding.PKCS7(128).padder()
    sealer = Cipher(algorithms.AES(key.encode()), modes.CBC(key.encode()[:16])).encryptor()
    padded = padder.update(text.encode()) + padder.finalize()
    return base64.b64encode(sealer.update(padded) + sealer.finalize()).decode()


def by_rsa(text):
    return base64.b64encode(RSA_KEY.public_key().encrypt(text.encode(), rsa_padding.PKCS1v15())).decode()


def read(key=NO_KEY, *, strict_end=False, **fields):
    return aksk.read({"ak": "AK", "sk": SK, **fields}, key, now=NOW, strict_end=strict_end)


@pytest.mark.guide("env TEMP_AKSK_CM")
@pytest.mark.parametrize(
    ("cipher", "sealed", "key"),
    [
        ("", SK, ""),
        ("none", SK, ""),
        ("None", SK, "x" * 32),
        ("aes256+base64", by_aes(SK, "k" * 32), "k" * 32),
        ("AES", by_aes(SK, "k" * 24), "k" * 24),
        ("anything", by_aes(SK, "0123456789abcdef"), "0123456789abcdef"),
        ("aes256+base64", by_aes("exactly 16 bytes", "k" * 32), "k" * 32),
        ("RSA", by_rsa(SK), pem(RSA_KEY)),
        ("rsa", by_rsa(SK), pem(RSA_KEY, serialization.PrivateFormat.PKCS8)),
        ("RSA", by_rsa(SK), base64.b64encode(pem(RSA_KEY).encode()).decode()),
    ],
)
def test_each_cipher_opens(cipher, sealed, key):
    found = read(secret.Secret(key), sk=f" {sealed}\n", cipher=cipher)
    assert found.credentials.secret_key.reveal() in {SK, "exactly 16 bytes"}


@pytest.mark.parametrize(
    ("cipher", "sealed", "key", "words"),
    [
        ("aes", by_aes(SK, "k" * 32), "", "AKSK_CIPHER_KEY does not give"),
        ("aes", by_aes(SK, "k" * 32), "j" * 32, "does not open"),
        ("aes", by_aes(SK, "k" * 32), "k" * 31, "has 31 bytes"),
        ("aes", by_aes(SK, "k" * 32)[:-4], "k" * 32, "no base64|does not open"),
        ("aes", SK, "k" * 32, "no base64"),
        ("RSA", by_rsa(SK), pem(OTHER_RSA_KEY), "does not open"),
        ("RSA", by_rsa(SK), "k" * 32, "neither an AES key"),
        ("aes", by_aes("a\x01b", "k" * 32), "k" * 32, "does not open"),
        ("RSA", base64.b64encode(b"short").decode(), pem(RSA_KEY), "does not open"),
    ],
)
def test_what_does_not_open_is_told_without_showing_it(cipher, sealed, key, words):
    with pytest.raises(aksk.AkskError, match=words) as caught:
        read(secret.Secret(key), sk=sealed, cipher=cipher)
    told = repr(caught.value) + repr(caught.value.__cause__)
    assert sealed not in told
    assert not key or key not in told


def test_a_wrong_key_never_gives_a_wrong_secret():
    """By chance a wrong key's noise is padded rightly: of 2,000 some are."""
    sealed = by_aes(SK, "k" * 32)
    for number in range(2000):
        with pytest.raises(aksk.AkskError):
            read(secret.Secret(f"{number:032d}"), sk=sealed, cipher="aes256+base64")


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("2026-02-01T00:00:00", datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC)),
        (" 2026-02-01T00:00:00\n", datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC)),
        ("2026-02-01T00:00:00Z", datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC)),
        ("2026-02-01T08:00:00+08:00", datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC)),
        ("", NOW + aksk.NEVER),
    ],
)
def test_an_end_without_a_zone_is_utc_and_none_is_never(text, end):
    assert read(expired_at=text, strict_end=True).expires_at == end


@pytest.mark.parametrize(
    "text", ["tomorrow", "2026-02-01", "2026-02-31T00:00:00", "2026-02-01 00:00:00", "1"]
)
def test_an_end_that_cannot_be_read_is_an_error_or_a_warning(text):
    with pytest.raises(aksk.AkskError, match="2026-01-31T23:59:59"):
        read(expired_at=text, strict_end=True)
    found = read(expired_at=text)
    assert found.expires_at == NOW + aksk.NEVER
    assert "no end" in found.warning


def test_the_token_is_plain_whatever_the_cipher():
    found = read(secret.Secret("k" * 32), sk=by_aes(SK, "k" * 32), cipher="aes", securityToken=" token ")
    assert found.credentials == signing.Credentials("AK", secret.Secret(SK), secret.Secret("token"))
    assert read().credentials.security_token is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"ak": ""}, "ak is missing"), ({"sk": " "}, "sk is missing"), ({"ak": "", "sk": ""}, "ak and sk")],
)
def test_what_is_missing_is_named(fields, words):
    with pytest.raises(aksk.AkskError, match=words):
        read(**fields)


def test_a_secrets_values_are_base64():
    data = {name: base64.b64encode(text.encode()).decode() for name, text in {"ak": "AK", "sk": SK}.items()}
    assert aksk.decode_secret({**data, "other": "?"}) == {"ak": "AK", "sk": SK}
    with pytest.raises(aksk.AkskError, match="ak is no text in base64"):
        aksk.decode_secret({"ak": "?"})


@pytest.mark.parametrize(
    "text",
    [
        'ak: AK\nsk: "S:K"\n\nexpired_at: "2026-02-01T00:00:00"\nregion: r\n',
        '{"ak": "AK", "sk": "S:K", "expired_at": "2026-02-01T00:00:00", "region": "r", "version": null}',
    ],
)
def test_the_older_forms_are_read(text):
    fields = aksk.read_text(text)
    assert (fields["ak"], fields["sk"], fields["expired_at"]) == ("AK", "S:K", "2026-02-01T00:00:00")


def ending(seconds, name="AK"):
    credentials = signing.Credentials(name, secret.Secret(SK))
    return aksk.Keys(credentials, NOW + datetime.timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("ends", "chosen"),
    [
        ([], None),
        ([0], None),
        ([-1, 0], None),
        ([1], 0),
        ([60, 61], 1),
        ([61, 3600], 0),
        ([30, 59], 1),
        ([59, 30], 0),
        ([0, 30], 1),
    ],
)
def test_keys_are_used_up_to_the_margin_and_after_it_as_a_last_resort(ends, chosen):
    found = [ending(end, str(number)) for number, end in enumerate(ends)]
    assert aksk.choose(found, NOW) == (None if chosen is None else found[chosen])


def test_no_secret_is_in_a_repr():
    assert SK not in repr(read(securityToken="canary-token"))
    assert "canary-token" not in repr(read(securityToken="canary-token"))
