"""What a pod's containers are made of: volumes, environment, mounts and registry credentials, fetched
from the source and resolved by kube's pure parts.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import msgspec

from kci.kcilet import ports
from kci.kcilet.plan import actions, identity
from kci.kcilet.plan import services as plan
from kci.kit import secret, tasks
from kci.kube import environment, models, quantity
from kci.kube import errors as kube_errors
from kci.kube import volumes as volume_files
from kci.link import types as link
from kci.source import port

T = TypeVar("T")
HOSTS_FILE = "etc-hosts"
HOSTS_PATH = "/etc/hosts"
DOCKER_CONFIG = ".dockerconfigjson"
DOCKER_CONFIG_OLD = ".dockercfg"


class ConfigError(Exception):
    """What the pod refers to is missing or makes no sense. `reason` is the kubelet's."""

    def __init__(self, message: str) -> None:
        self.reason = actions.CONFIG_ERROR
        super().__init__(message)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A pod that is to run."""

    group: link.WantedGroup
    source: port.PodSource
    pod: models.Pod

    @property
    def size(self) -> dict[str, str]:
        """What stands for the node's allocatable in the downward API: the group's size."""
        sizes = {"cpu": f"{self.group.cpu_milli}m", "memory": f"{self.group.memory_mib}Mi"}
        amounts = {"cpu": self.group.cpu_milli, "memory": self.group.memory_mib}
        return {name: text for name, text in sizes.items() if amounts[name]}


async def volumes_of(wanted: Wanted) -> tuple[list[ports.ContentVolume | ports.EmptyDir], list[str]]:
    """The volumes of the pod, with their content, and what is wrong with the others."""
    pod, needs = wanted.pod, volume_files.needs(wanted.pod)
    tokens = sorted(needs.tokens, key=lambda need: (need.audience, need.expiration_s))
    async with tasks.Tasks() as group:
        config_maps = group.spawn("config maps", _fetch(needs.config_maps, wanted.source.config_map))
        secrets = group.spawn("secrets", _fetch(needs.secrets, wanted.source.secret))
        issued = group.spawn(
            "tokens", tasks.wait_all((_token(wanted, need) for need in tokens), name="token")
        )
    facts = volume_files.Facts(
        config_maps=config_maps.result(),
        secrets=secrets.result(),
        tokens=dict(zip(tokens, issued.result(), strict=True)),
        allocatable=wanted.size,
    )
    made, problems = [], []
    for volume in pod.spec.volumes:
        try:
            made.append(_to_volume(volume, pod, facts))
        except ConfigError as error:
            problems.append(str(error))
    return made, problems


def _token(wanted: Wanted, need: volume_files.TokenNeed) -> Any:
    return wanted.source.token(wanted.pod, audience=need.audience, expiration_s=need.expiration_s)


async def _fetch(names: Iterable[str], get: Callable[[str], Awaitable[T]]) -> dict[str, T]:
    ordered = sorted(names)

    async def one(name: str) -> T:
        return await get(name)

    found = await tasks.wait_all((one(name) for name in ordered), name="fetch")
    return dict(zip(ordered, found, strict=True))


def _to_volume(
    volume: models.Volume, pod: models.Pod, facts: volume_files.Facts
) -> ports.ContentVolume | ports.EmptyDir:
    context = pod.spec.security_context
    fs_group = context.fs_group if context is not None else None
    if volume_files.has_files(volume):
        try:
            made = volume_files.files(volume, pod, facts)
        except (kube_errors.ConfigError, kube_errors.InvalidError) as error:
            raise ConfigError(f'MountVolume.SetUp failed for volume "{volume.name}" : {error}') from error
        files = tuple(ports.VolumeFile(file.path, file.content, file.mode, file.owner) for file in made)
        return ports.ContentVolume(volume.name, files, volume_files.in_memory(volume), fs_group)
    if volume.empty_dir is None:
        raise ConfigError(f"cannot mount volume {volume.name!r}: its kind is not supported here")
    limit = volume.empty_dir.size_limit
    size = quantity.to_bytes(limit) if limit is not None else 0
    return ports.EmptyDir(volume.name, volume.empty_dir.medium == "Memory", size or None, fs_group)


async def container_spec(
    volumes: ports.Volumes,
    wanted: Wanted,
    action: actions.StartContainer,
    image: ports.ImageRef,
    *,
    reaches_services: bool,
) -> ports.ContainerSpec:
    """Everything of a container resolved; raises ConfigError. One that reaches no Services is told of none:
    it would keep their addresses for its whole life.
    """
    pod, group = wanted.pod, wanted.group
    container = next(one for one in pod.spec.all_containers if one.name == action.container)
    try:
        env = await _environment(wanted, container, reaches_services=reaches_services)
        mounts = await _mounts(volumes, wanted, container, env, action.attempt)
    except (kube_errors.ConfigError, kube_errors.InvalidError) as error:
        raise ConfigError(str(error)) from error
    return ports.ContainerSpec(
        pod=pod,
        container=msgspec.structs.replace(
            container,
            command=environment.expand_arguments(container.command, env),
            args=environment.expand_arguments(container.args, env),
        ),
        attempt=action.attempt,
        image_id=image.id,
        env=env,
        mounts=mounts,
        cpu_milli_limit=group.cpu_milli,
        memory_mib_limit=group.memory_mib,
    )


async def _environment(
    wanted: Wanted, container: models.Container, *, reaches_services: bool
) -> dict[str, str]:
    needs, source = environment.needs(container), wanted.source
    facts = environment.Facts(
        config_maps=await _fetch(needs.config_maps, source.config_map),
        secrets=await _fetch(needs.secrets, source.secret),
        pod_ips=(wanted.group.interface.address,),
        host_ips=(source.host_ip,) if source.host_ip else (),
        api_server_host=source.endpoint.host,
        api_server_port=source.endpoint.port,
        services=plan.linked(wanted.pod, wanted.source.services.services) if reaches_services else (),
        allocatable=wanted.size,
    )
    return environment.resolve(wanted.pod, container, facts)


async def _mounts(
    volumes: ports.Volumes,
    wanted: Wanted,
    container: models.Container,
    env: dict[str, str],
    attempt: int,
) -> list[ports.Mount]:
    pod, group = wanted.pod, wanted.group
    hosts = identity.hosts_file(
        pod, group.interface.address, group.cluster_domain, group.machine_host_aliases
    )
    by_name = {volume.name: volume for volume in pod.spec.volumes}
    mounts = []
    for mount in container.volume_mounts:
        volume = by_name[mount.name]
        sub_path = environment.expand_sub_path(mount, env) if mount.sub_path_expr else mount.sub_path
        path = volumes.host_path(pod.uid, volume.name)
        if sub_path:
            path = await volumes.ensure_sub_path(pod.uid, volume.name, sub_path)
        read_only = mount.read_only or volume_files.has_files(volume)
        mounts.append(ports.Mount(mount.mount_path, path, read_only, mount.mount_propagation or "None"))
    taken = {mount.container_path for mount in mounts}
    if HOSTS_PATH not in taken:
        path = await volumes.ensure_file(pod.uid, HOSTS_FILE, hosts.encode())
        mounts.append(ports.Mount(HOSTS_PATH, path))
    if container.termination_message_path and container.termination_message_path not in taken:
        name = message_file(container.name, attempt)
        path = await volumes.ensure_file(pod.uid, name, b"", mode=0o666)
        mounts.append(ports.Mount(container.termination_message_path, path))
    return mounts


def message_file(container: str, attempt: int) -> str:
    return f"message-{container}-{attempt}"


# ---- registry credentials -------------------------------------------------------------------------


class _Login(msgspec.Struct, frozen=True):
    username: str = ""
    password: str = ""
    auth: str = ""


class _DockerConfig(msgspec.Struct, frozen=True):
    auths: dict[str, _Login] = {}


async def registry_auths(wanted: Wanted) -> list[ports.RegistryAuth]:
    """Credentials of the pod's imagePullSecrets. As with a kubelet, a Secret that is missing or makes no
    sense is passed over: the pull may do without.
    """
    names = [reference.name for reference in wanted.pod.spec.image_pull_secrets if reference.name]
    found = await _fetch(set(names), wanted.source.secret)
    auths: list[ports.RegistryAuth] = []
    for name in names:
        kept = found[name]
        if kept is not None:
            auths += to_auths(kept)
    return auths


def to_auths(kept: models.Secret) -> list[ports.RegistryAuth]:
    """Both forms of a registry Secret, as pkg/credentialprovider/config.go reads them."""
    try:
        if DOCKER_CONFIG in kept.data:
            text = base64.b64decode(kept.data[DOCKER_CONFIG])
            logins = msgspec.json.decode(text, type=_DockerConfig).auths
        elif DOCKER_CONFIG_OLD in kept.data:
            text = base64.b64decode(kept.data[DOCKER_CONFIG_OLD])
            logins = msgspec.json.decode(text, type=dict[str, _Login])
        else:
            return []
        return [_to_auth(server, login) for server, login in logins.items()]
    except (binascii.Error, UnicodeDecodeError, msgspec.DecodeError):
        return []


def _to_auth(server: str, login: _Login) -> ports.RegistryAuth:
    username, password = login.username, login.password
    if login.auth:
        username, _, password = base64.b64decode(login.auth).decode().partition(":")
    return ports.RegistryAuth(server, username, secret.Secret(password))
