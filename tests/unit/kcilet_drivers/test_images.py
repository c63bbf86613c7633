"""Image names and the choice of credentials."""

import pytest

from kci.kcilet import ports
from kci.kcilet.drivers.runtime import images
from kci.kit import secret

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    "image",
    [
        "nginx",
        "nginx:1.25",
        "library/nginx",
        "localhost:5000/a/b:t",
        f"registry.example/a@{DIGEST}",
        "a__b/c-d.e:T_1",
    ],
)
def test_a_name_that_a_registry_could_know_is_taken(image):
    images.check_name(image)


@pytest.mark.parametrize(
    "image",
    [
        "",
        "Nginx",
        "nginx:",
        "a//b",
        "-a",
        "a b",
        "a:b:c",
        "http://a/b",
        "../a",
        "a@sha256:1",
        DIGEST,
        "x" * 2000,
    ],
)
def test_any_other_name_is_refused_as_such(image):
    with pytest.raises(ports.ImagePullError) as caught:
        images.check_name(image)
    assert caught.value.reason == "InvalidImageName"


def chosen(image, *servers):
    auths = [
        ports.RegistryAuth(server=server, username=server, password=secret.Secret("x")) for server in servers
    ]
    return [auth.server for auth in images.choose_auths(image, auths)]


@pytest.mark.parametrize(
    ("image", "server"),
    [
        ("nginx", "docker.io"),
        ("nginx", "https://index.docker.io/v1/"),
        ("shop/web:2", "docker.io/shop"),
        ("reg.example/shop/web", "reg.example"),
        ("reg.example:5000/web", "https://reg.example:5000"),
        ("a.reg.example/web", "*.reg.example"),
    ],
)
def test_a_registrys_credentials_are_chosen(image, server):
    assert chosen(image, server) == [server]


@pytest.mark.parametrize(
    ("image", "server"),
    [
        ("nginx", "reg.example"),
        ("reg.example/web", "docker.io"),
        ("reg.example/shopping/web", "reg.example/shop"),
        ("reg.example:5000/web", "reg.example"),
        ("reg.example/web", "*.example.org"),
        ("a.b.reg.example/web", "*.reg.example"),
        ("evil.example/reg.example/web", "reg.example"),
    ],
)
def test_no_registry_is_shown_anothers(image, server):
    assert chosen(image, server) == []


def test_the_longest_path_is_tried_first():
    servers = ("reg.example", "reg.example/shop/web", "reg.example/shop")
    assert chosen("reg.example/shop/web", *servers) == [servers[1], servers[2], servers[0]]
