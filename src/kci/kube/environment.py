"""A container's environment: literals, $(VAR) references, fields, ConfigMaps, Secrets, and how to find the
API server. Pure: `needs` says what to fetch, `resolve` makes the variables of it.

Ported from Kubernetes v1.36.3 pkg/kubelet/kubelet_pods.go (makeEnvironmentVariables),
third_party/forked/golang/expansion/expand.go, pkg/kubelet/envvars/envvars.go and
pkg/kubelet/container/helpers.go. Differs: variables keep the order in which they are declared (the kubelet
has none); service links are made of Services that the pod reaches, and for one that reaches none of the API
server's address alone; a Service `kubernetes` of another namespace than `default` is never taken for the API
server's, while a kubelet has it count for more; values that no process can be given (NUL, no UTF-8) are
refused by name.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from kci.kube import downward, errors, models

ConfigMaps = Mapping[str, models.ConfigMap | None]
Secrets = Mapping[str, models.Secret | None]
API_SERVICE = "kubernetes"


@dataclasses.dataclass(frozen=True)
class Needs:
    """Names of objects in the pod's namespace."""

    config_maps: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()


def needs(container: models.Container) -> Needs:
    """What must be fetched before `resolve`; what is absent is handed over as None or not at all."""
    config_maps, secrets = set(), set()
    for source in container.env_from:
        if source.config_map_ref:
            config_maps.add(source.config_map_ref.name)
        elif source.secret_ref:
            secrets.add(source.secret_ref.name)
    for variable in container.env:
        if variable.value or variable.value_from is None:
            continue
        if variable.value_from.config_map_key_ref:
            config_maps.add(variable.value_from.config_map_key_ref.name)
        elif variable.value_from.secret_key_ref:
            secrets.add(variable.value_from.secret_key_ref.name)
    return Needs(frozenset(config_maps), frozenset(secrets))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known when a container starts. An empty API server host leaves its variables out."""

    config_maps: ConfigMaps = dataclasses.field(default_factory=dict)
    secrets: Secrets = dataclasses.field(default_factory=dict)
    pod_ips: Sequence[str] = ()
    host_ips: Sequence[str] = ()
    api_server_host: str = ""
    api_server_port: int = 443
    # Those that the pod reaches of its own namespace, and default/kubernetes, which then counts for more than
    # the address above.
    services: Sequence[models.Service] = ()
    # The group's size, by resource name.
    allocatable: downward.Quantities = dataclasses.field(default_factory=dict)


def resolve(pod: models.Pod, container: models.Container, facts: Facts) -> dict[str, str]:
    """The variables; raises ConfigError (a container waits with CreateContainerConfigError)."""
    service = service_variables(facts.api_server_host, facts.api_server_port)
    if any(_is_api_servers(one) for one in facts.services):
        service = {}
    # Another namespace's of that name would take the API server's variables.
    named = [one for one in facts.services if one.metadata.name != API_SERVICE or _is_api_servers(one)]
    service |= service_links(named)
    found: dict[str, str] = {}
    for source in container.env_from:
        found.update(_all_of(pod, source, facts))
    for variable in container.env:
        value: str | None
        if variable.value:
            value = expand(variable.value, found, service)
        elif variable.value_from:
            value = _referred(pod, container, variable.value_from, facts)
        else:
            value = ""
        # None: an optional key that is absent. An earlier value of that name stays, as in the kubelet.
        if value is not None:
            found[variable.name] = value
    for name, value in found.items():
        if "\0" in value:
            raise errors.ConfigError(f"the value of environment variable {name} holds a NUL byte")
    return {**found, **{name: value for name, value in service.items() if name not in found}}


def _is_api_servers(service: models.Service) -> bool:
    """kubelet_pods.go has the name in masterServices, and demands the namespace."""
    return (service.metadata.namespace, service.metadata.name) == ("default", API_SERVICE)


def service_variables(host: str, port: int) -> dict[str, str]:
    """What the kubelet makes of the service default/kubernetes."""
    if not host:
        return {}
    url = f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
    prefix = f"KUBERNETES_PORT_{port}_TCP"
    return {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": str(port),
        "KUBERNETES_SERVICE_PORT_HTTPS": str(port),
        "KUBERNETES_PORT": url,
        prefix: url,
        f"{prefix}_PROTO": "tcp",
        f"{prefix}_PORT": str(port),
        f"{prefix}_ADDR": host,
    }


def service_links(services: Sequence[models.Service]) -> dict[str, str]:
    """What the kubelet makes of these, each with a ClusterIP."""
    found: dict[str, str] = {}
    for one in services:
        name, host = one.metadata.name.replace("-", "_").upper(), one.spec.cluster_ip
        if not one.spec.ports:
            continue
        found[f"{name}_SERVICE_HOST"] = host
        found[f"{name}_SERVICE_PORT"] = str(one.spec.ports[0].port)
        for port in one.spec.ports:
            if port.name:
                port_name = port.name.replace("-", "_").upper()
                found[f"{name}_SERVICE_PORT_{port_name}"] = str(port.port)
        for number, port in enumerate(one.spec.ports):
            url = f"{port.protocol.lower()}://{f'[{host}]' if ':' in host else host}:{port.port}"
            if number == 0:
                found[f"{name}_PORT"] = url
            prefix = f"{name}_PORT_{port.port}_{port.protocol.upper()}"
            found |= {
                prefix: url,
                f"{prefix}_PROTO": port.protocol.lower(),
                f"{prefix}_PORT": str(port.port),
                f"{prefix}_ADDR": host,
            }
    return found


def expand(text: str, *variables: Mapping[str, str]) -> str:
    """Replace $(NAME) by the first mapping that has it; $$ is a $, and what is unknown stays as it is."""

    def value_of(name: str) -> str:
        return next((known[name] for known in variables if name in known), f"$({name})")

    return _expand(text, value_of)


def expand_arguments(arguments: Sequence[str], variables: Mapping[str, str]) -> tuple[str, ...]:
    """A container's command or args with its environment's values."""
    return tuple(expand(argument, variables) for argument in arguments)


def expand_sub_path(mount: models.VolumeMount, variables: Mapping[str, str]) -> str:
    """A mount's subPathExpr; here every variable must have a value."""
    missing = set()

    def value_of(name: str) -> str:
        if not variables.get(name):
            missing.add(name)
        return variables.get(name, "")

    path = _expand(mount.sub_path_expr, value_of)
    if missing:
        raise errors.ConfigError(f"missing value for {', '.join(sorted(missing))}")
    return path


def _expand(text: str, value_of: Callable[[str], str]) -> str:
    parts, position = [], 0
    while (dollar := text.find("$", position)) >= 0:
        parts.append(text[position:dollar])
        following = text[dollar + 1 : dollar + 2]
        closer = text.find(")", dollar + 2)
        if following == "(" and closer >= 0:
            parts.append(value_of(text[dollar + 2 : closer]))
            position = closer + 1
        else:
            # "$$" is an escaped "$"; "$(" without its end and "$x" stand for themselves.
            parts.append("$" if following == "$" else f"${following}")
            position = dollar + 1 + len(following)
    return "".join(parts) + text[position:]


def _all_of(pod: models.Pod, source: models.EnvFromSource, facts: Facts) -> dict[str, str]:
    if source.config_map_ref:
        reference = source.config_map_ref
        config_map = facts.config_maps.get(reference.name)
        if config_map is None:
            _absent("configmap", reference.name, optional=reference.optional)
            return {}
        return {source.prefix + key: value for key, value in config_map.data.items()}
    if source.secret_ref:
        reference = source.secret_ref
        secret = facts.secrets.get(reference.name)
        if secret is None:
            _absent("secret", reference.name, optional=reference.optional)
            return {}
        return {source.prefix + key: _text(pod, secret, key) for key in secret.data}
    return {}


def _referred(
    pod: models.Pod, container: models.Container, source: models.EnvVarSource, facts: Facts
) -> str | None:
    if source.field_ref:
        return downward.pod_field(
            pod, source.field_ref.field_path, pod_ips=facts.pod_ips, host_ips=facts.host_ips
        )
    if source.resource_field_ref:
        return downward.resource_field(
            source.resource_field_ref, pod, container, allocatable=facts.allocatable
        )
    if source.config_map_key_ref:
        return _config_map_key(pod, source.config_map_key_ref, facts)
    if source.secret_key_ref:
        return _secret_key(pod, source.secret_key_ref, facts)
    raise errors.ConfigError("a variable's valueFrom is of a kind that is not supported here")


def _config_map_key(pod: models.Pod, selector: models.KeySelector, facts: Facts) -> str | None:
    config_map = facts.config_maps.get(selector.name)
    if config_map is None:
        _absent("configmap", selector.name, optional=selector.optional)
        return None
    if selector.key not in config_map.data:
        _no_key("ConfigMap", pod, selector)
        return None
    return config_map.data[selector.key]


def _secret_key(pod: models.Pod, selector: models.KeySelector, facts: Facts) -> str | None:
    secret = facts.secrets.get(selector.name)
    if secret is None:
        _absent("secret", selector.name, optional=selector.optional)
        return None
    if selector.key not in secret.data:
        _no_key("Secret", pod, selector)
        return None
    return _text(pod, secret, selector.key)


def _absent(kind: str, name: str, *, optional: bool | None) -> None:
    if not optional:
        raise errors.ConfigError(f'{kind} "{name}" not found')


def _no_key(kind: str, pod: models.Pod, selector: models.KeySelector) -> None:
    if not selector.optional:
        raise errors.ConfigError(
            f"couldn't find key {selector.key} in {kind} {pod.metadata.namespace}/{selector.name}"
        )


def _text(pod: models.Pod, secret: models.Secret, key: str) -> str:
    try:
        return base64.b64decode(secret.data[key], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        where = f"{pod.metadata.namespace}/{secret.metadata.name}"
        raise errors.ConfigError(
            f"key {key} in Secret {where} is no UTF-8 text: it cannot be an environment variable"
        ) from error
