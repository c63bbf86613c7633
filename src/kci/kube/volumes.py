"""The files of a pod's volumes made from API objects: configMap, secret, downwardAPI and projected. Pure:
`needs` says what to fetch, `files` makes the files of it; writing them is a driver's.

Ported from Kubernetes v1.36.3 pkg/volume/{configmap,secret,downwardapi,projected}, their path checks from
pkg/volume/util/atomic_writer.go, the owner of tokens from pkg/volume/util (FsUserFrom).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import posixpath
from collections.abc import Iterator, Mapping

from kci.kit import secret as secrets_kit
from kci.kube import downward, environment, errors, models

DEFAULT_MODE = 0o644
_TOKEN_MODE = 0o600
_LONGEST_PATH = 4096
_LONGEST_NAME = 255


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a volume: its path below the volume's root, which it never leaves."""

    path: str
    content: bytes
    mode: int = DEFAULT_MODE
    # The user it belongs to; None for root.
    owner: int | None = None


@dataclasses.dataclass(frozen=True)
class TokenNeed:
    """A token of the pod's service account; an empty audience is the API server's."""

    audience: str
    expiration_s: int


@dataclasses.dataclass(frozen=True)
class Needs:
    """What volumes are made of, by name in the pod's namespace."""

    config_maps: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    tokens: frozenset[TokenNeed] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """The objects fetched; what is absent is None or not there."""

    config_maps: environment.ConfigMaps = dataclasses.field(default_factory=dict)
    secrets: environment.Secrets = dataclasses.field(default_factory=dict)
    tokens: Mapping[TokenNeed, secrets_kit.Secret] = dataclasses.field(default_factory=dict)
    # The group's size, by resource name.
    allocatable: downward.Quantities = dataclasses.field(default_factory=dict)


def has_files(volume: models.Volume) -> bool:
    """Whether `files` makes this volume."""
    return any((volume.config_map, volume.secret, volume.downward_api, volume.projected))


def in_memory(volume: models.Volume) -> bool:
    """Whether the volume must never lie on a disk: all but ConfigMaps, as in the kubelet."""
    return volume.config_map is None


def needs(pod: models.Pod) -> Needs:
    """What must be fetched before `files`, for all volumes of a pod."""
    config_maps, secrets, tokens = set(), set(), set()
    for volume in pod.spec.volumes:
        for source in _sources(volume):
            if source.config_map:
                config_maps.add(source.config_map.name)
            if source.secret:
                secrets.add(source.secret.name)
            if source.service_account_token:
                tokens.add(_token_need(source.service_account_token))
    return Needs(frozenset(config_maps), frozenset(secrets), frozenset(tokens))


def live_fields(pod: models.Pod) -> tuple[dict[str, str], ...]:
    """What volumes show of the pod itself and what may change while it runs."""
    shown = {
        item.field_ref.field_path.partition("[")[0]
        for volume in pod.spec.volumes
        for source in _sources(volume)
        if source.downward_api
        for item in source.downward_api.items
        if item.field_ref
    }
    maps = {"metadata.annotations": pod.metadata.annotations, "metadata.labels": pod.metadata.labels}
    return tuple(dict(sorted(maps[path].items())) for path in sorted(shown & maps.keys()))


def files(volume: models.Volume, pod: models.Pod, facts: Facts) -> tuple[File, ...]:
    """All files of a volume, by path; of two for one path the later source's. Raises ConfigError."""
    default_mode = _default_mode(volume)
    problems: list[str] = []
    made: dict[str, File] = {}
    for source in _sources(volume):
        try:
            for file in _of_source(source, pod, facts, default_mode):
                path = _checked(file.path)
                made[path] = dataclasses.replace(file, path=path)
        except errors.ConfigError as error:
            problems.append(str(error))
    if problems:
        raise errors.ConfigError("; ".join(problems))
    return tuple(made[path] for path in sorted(made))


def _sources(volume: models.Volume) -> tuple[models.VolumeProjection, ...]:
    """Each kind as the projection that it is a special case of."""
    if volume.projected:
        return volume.projected.sources or ()
    if volume.config_map:
        whole = volume.config_map
        return (
            models.VolumeProjection(
                config_map=models.ConfigMapProjection(
                    name=whole.name, items=whole.items, optional=whole.optional
                )
            ),
        )
    if volume.secret:
        kept = volume.secret
        return (
            models.VolumeProjection(
                secret=models.SecretProjection(
                    name=kept.secret_name, items=kept.items, optional=kept.optional
                )
            ),
        )
    if volume.downward_api:
        items = volume.downward_api.items
        return (models.VolumeProjection(downward_api=models.DownwardAPIProjection(items=items)),)
    return ()


def _default_mode(volume: models.Volume) -> int:
    sources = (volume.projected, volume.config_map, volume.secret, volume.downward_api)
    modes = (source.default_mode for source in sources if source)
    return next((mode for mode in modes if mode is not None), DEFAULT_MODE)


def _of_source(
    source: models.VolumeProjection, pod: models.Pod, facts: Facts, default_mode: int
) -> Iterator[File]:
    if source.config_map:
        yield from _of_config_map(source.config_map, facts, default_mode)
    elif source.secret:
        yield from _of_secret(source.secret, facts, default_mode)
    elif source.downward_api:
        for item in source.downward_api.items:
            mode = default_mode if item.mode is None else item.mode
            yield File(item.path, _field(item, pod, facts).encode(), mode)
    elif source.service_account_token:
        yield _token_file(source.service_account_token, pod, facts, default_mode)
    else:
        raise errors.ConfigError("a projected source is of a kind that is not supported here")


def _of_config_map(wanted: models.ConfigMapProjection, facts: Facts, default_mode: int) -> Iterator[File]:
    config_map = facts.config_maps.get(wanted.name)
    if config_map is None:
        if not wanted.optional:
            raise errors.ConfigError(f'configmap "{wanted.name}" not found')
        config_map = models.ConfigMap()
    content = {key: _decoded(wanted.name, key, value) for key, value in config_map.binary_data.items()}
    content.update({key: value.encode() for key, value in config_map.data.items()})
    missing = "configmap references non-existent config key: "
    yield from _picked(content, wanted.items, default_mode, optional=bool(wanted.optional), missing=missing)


def _of_secret(wanted: models.SecretProjection, facts: Facts, default_mode: int) -> Iterator[File]:
    secret = facts.secrets.get(wanted.name)
    if secret is None:
        if not wanted.optional:
            raise errors.ConfigError(f'secret "{wanted.name}" not found')
        secret = models.Secret()
    content = {key: _decoded(wanted.name, key, value) for key, value in secret.data.items()}
    missing = "references non-existent secret key: "
    yield from _picked(content, wanted.items, default_mode, optional=bool(wanted.optional), missing=missing)


def _picked(
    content: Mapping[str, bytes],
    items: tuple[models.KeyToPath, ...],
    default_mode: int,
    *,
    optional: bool,
    missing: str,
) -> Iterator[File]:
    if not items:
        for key, value in content.items():
            yield File(key, value, default_mode)
    for item in items:
        if item.key in content:
            yield File(item.path, content[item.key], default_mode if item.mode is None else item.mode)
        elif not optional:
            raise errors.ConfigError(missing + item.key)


def _field(item: models.DownwardAPIFile, pod: models.Pod, facts: Facts) -> str:
    if item.field_ref:
        return downward.metadata_field(pod, item.field_ref.field_path)
    if item.resource_field_ref:
        return downward.resource_field(item.resource_field_ref, pod, allocatable=facts.allocatable)
    return ""


def _token_file(
    wanted: models.ServiceAccountTokenProjection, pod: models.Pod, facts: Facts, default_mode: int
) -> File:
    token = facts.tokens.get(_token_need(wanted))
    if token is None:
        raise errors.ConfigError(f"no token of service account {pod.spec.service_account_name} yet")
    # With a group the driver opens the file to that group, and to nobody else.
    has_group = pod.spec.security_context is not None and pod.spec.security_context.fs_group is not None
    user = _only_user(pod)
    mode = _TOKEN_MODE if has_group or user is not None else default_mode
    return File(wanted.path, token.reveal().encode(), mode, user)


def _only_user(pod: models.Pod) -> int | None:
    """The user that all containers of the pod run as, if the spec says so."""
    of_pod = pod.spec.security_context.run_as_user if pod.spec.security_context is not None else None
    users = set()
    for container in pod.spec.all_containers:
        own = container.security_context.run_as_user if container.security_context is not None else None
        users.add(of_pod if own is None else own)
    return users.pop() if len(users) == 1 else None


def _token_need(wanted: models.ServiceAccountTokenProjection) -> TokenNeed:
    return TokenNeed(wanted.audience, wanted.expiration_seconds)


def _decoded(name: str, key: str, value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise errors.ConfigError(f"key {key} of {name} is no base64") from error


def _checked(path: str) -> str:
    """The API server checks paths too; this one stands between a spec and a file system."""
    items = path.split("/")
    if not path or path.startswith("/") or len(path) > _LONGEST_PATH or "\0" in path:
        raise errors.ConfigError(f"invalid path: must be a relative path: {path[:80]!r}")
    if ".." in items or items[0].startswith(".."):
        # "..data" and the like are the names under which a volume is replaced as a whole.
        raise errors.ConfigError(f"invalid path: must not contain or start with '..': {path}")
    if any(len(item.encode()) > _LONGEST_NAME for item in items):
        raise errors.ConfigError(f"invalid path: a file name is longer than {_LONGEST_NAME}: {path[:80]}")
    clean = posixpath.normpath(path)
    if clean == ".":
        raise errors.ConfigError(f"invalid path: names no file: {path}")
    return clean
