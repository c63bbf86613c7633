"""The files of volumes, and what they are made of."""

import base64

import msgspec
import pytest

from kci.kit import secret
from kci.kube import errors, models, volumes


def b64(data):
    return base64.b64encode(data).decode()


CONFIG = models.ConfigMap(data={"a": "A", "b": "B"}, binary_data={"bin": b64(b"\x00\xff")})
SECRET = models.Secret(data={"key": b64(b"hidden")})
API_TOKEN = volumes.TokenNeed("", 3607)
FACTS = volumes.Facts(
    config_maps={"c": CONFIG, "ca": models.ConfigMap(data={"ca.crt": "PEM"})},
    secrets={"s": SECRET},
    tokens={API_TOKEN: secret.Secret("jwt")},
    allocatable={"cpu": "2"},
)
POD = models.Pod(
    metadata=models.ObjectMeta(name="p", namespace="ns", labels={"app": "web"}),
    spec=models.PodSpec(containers=(models.Container(name="c"),), service_account_name="default"),
)


def made(volume, pod=POD, facts=FACTS):
    return [(file.path, file.content, file.mode) for file in volumes.files(volume, pod, facts)]


def item(key, path, mode=None):
    return models.KeyToPath(key=key, path=path, mode=mode)


def test_a_config_map_shows_all_its_keys():
    volume = models.Volume(name="v", config_map=models.ConfigMapVolume(name="c", default_mode=0o400))
    assert made(volume) == [("a", b"A", 0o400), ("b", b"B", 0o400), ("bin", b"\x00\xff", 0o400)]


def test_items_choose_keys_paths_and_modes():
    items = (item("a", "dir/./x", 0o600), item("bin", "bin"))
    volume = models.Volume(name="v", config_map=models.ConfigMapVolume(name="c", items=items))
    assert made(volume) == [("bin", b"\x00\xff", 0o644), ("dir/x", b"A", 0o600)]


@pytest.mark.parametrize(
    ("volume", "text"),
    [
        (models.Volume(name="v", config_map=models.ConfigMapVolume(name="no")), 'configmap "no" not found'),
        (models.Volume(name="v", secret=models.SecretVolume(secret_name="no")), 'secret "no" not found'),
        (
            models.Volume(name="v", config_map=models.ConfigMapVolume(name="c", items=(item("no", "x"),))),
            "configmap references non-existent config key: no",
        ),
        (
            models.Volume(name="v", secret=models.SecretVolume(secret_name="s", items=(item("no", "x"),))),
            "references non-existent secret key: no",
        ),
    ],
)
def test_what_is_missing_is_named_unless_it_is_optional(volume, text):
    with pytest.raises(errors.ConfigError, match=text):
        made(volume)
    source = volume.config_map or volume.secret
    optional = type(source)(
        **{name: getattr(source, name) for name in source.__struct_fields__} | {"optional": True}
    )
    kind = "config_map" if volume.config_map else "secret"
    assert made(models.Volume(name="v", **{kind: optional})) == []


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../../x", "..data", "..2026/x", ".", "a" * 256, "x\0y", "a/" * 3000],
)
def test_a_path_never_leaves_the_volume(path):
    volume = models.Volume(name="v", config_map=models.ConfigMapVolume(name="c", items=(item("a", path),)))
    with pytest.raises(errors.ConfigError, match="invalid path"):
        made(volume)


def service_account_volume(*more):
    """What admission gives every pod."""
    ca = models.ConfigMapProjection(name="ca", items=(item("ca.crt", "ca.crt"),))
    namespace = models.DownwardAPIFile(
        path="namespace", field_ref=models.ObjectFieldSelector(field_path="metadata.namespace")
    )
    sources = (
        models.VolumeProjection(
            service_account_token=models.ServiceAccountTokenProjection(path="token", expiration_seconds=3607)
        ),
        models.VolumeProjection(config_map=ca),
        models.VolumeProjection(downward_api=models.DownwardAPIProjection(items=(namespace,))),
        *more,
    )
    return models.Volume(name="v", projected=models.ProjectedVolume(sources=sources, default_mode=0o644))


def test_the_token_volume_of_every_pod():
    assert made(service_account_volume()) == [
        ("ca.crt", b"PEM", 0o644),
        ("namespace", b"ns", 0o644),
        ("token", b"jwt", 0o644),
    ]


@pytest.mark.parametrize("told", [{}, {"sources": None}, {"sources": []}])
def test_a_projected_volume_without_sources_has_no_files(told):
    assert made(msgspec.convert({"name": "v", "projected": told}, models.Volume)) == []


def test_a_group_alone_reads_the_token():
    context = models.PodSecurityContext(fs_group=1000)
    pod = models.Pod(metadata=POD.metadata, spec=models.PodSpec(security_context=context))
    assert ("token", b"jwt", 0o600) in made(service_account_volume(), pod)


@pytest.mark.parametrize(
    ("of_pod", "of_containers", "owner"),
    [(7, (None, None), 7), (7, (8, 8), 8), (None, (8, 8), 8), (7, (8, None), None), (None, (8, None), None)],
)
def test_the_only_user_of_a_pod_alone_reads_the_token(of_pod, of_containers, owner):
    containers = tuple(
        models.Container(name=f"c{number}", security_context=models.SecurityContext(run_as_user=user))
        for number, user in enumerate(of_containers)
    )
    context = models.PodSecurityContext(run_as_user=of_pod)
    spec = models.PodSpec(security_context=context, containers=containers)
    pod = models.Pod(metadata=POD.metadata, spec=spec)
    [token] = [file for file in volumes.files(service_account_volume(), pod, FACTS) if file.path == "token"]
    assert (token.owner, token.mode) == (owner, 0o644 if owner is None else 0o600)


def test_of_two_sources_for_one_path_the_later_wins():
    later = models.VolumeProjection(
        config_map=models.ConfigMapProjection(name="c", items=(item("a", "token"),))
    )
    assert ("token", b"A", 0o644) in made(service_account_volume(later))


def test_everything_that_is_wrong_is_said_at_once():
    wrong = [
        models.VolumeProjection(secret=models.SecretProjection(name="no")),
        models.VolumeProjection(cluster_trust_bundle={}),
    ]
    with pytest.raises(errors.ConfigError, match=r'secret "no" not found; .*not supported'):
        made(service_account_volume(*wrong))


def test_a_resource_field_counts_the_groups_size():
    field = models.ResourceFieldSelector(resource="limits.cpu", container_name="c")
    items = (models.DownwardAPIFile(path="cpu", resource_field_ref=field, mode=0o600),)
    volume = models.Volume(name="v", downward_api=models.DownwardAPIVolume(items=items))
    assert made(volume) == [("cpu", b"2", 0o600)]


def test_needs_of_a_pod_are_those_of_all_its_volumes():
    spec = models.PodSpec(
        volumes=(
            service_account_volume(models.VolumeProjection(secret=models.SecretProjection(name="s2"))),
            models.Volume(name="c", config_map=models.ConfigMapVolume(name="c")),
            models.Volume(name="s", secret=models.SecretVolume(secret_name="s")),
            models.Volume(name="e", empty_dir=models.EmptyDirVolume()),
        )
    )
    assert volumes.needs(models.Pod(spec=spec)) == volumes.Needs(
        frozenset({"ca", "c"}), frozenset({"s", "s2"}), frozenset({API_TOKEN})
    )


def test_all_but_config_maps_stay_in_memory():
    assert volumes.in_memory(service_account_volume())
    assert not volumes.in_memory(models.Volume(name="v", config_map=models.ConfigMapVolume(name="c")))
