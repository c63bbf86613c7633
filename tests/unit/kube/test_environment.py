"""A container's environment, as a kubelet makes it."""

import base64

import pytest

from kci.kube import environment, errors, models

POD = models.Pod(metadata=models.ObjectMeta(name="p", namespace="ns"))


def b64(data):
    return base64.b64encode(data).decode()


CONFIG = models.ConfigMap(data={"k": "v", "dashed-key": "d"})
SECRET = models.Secret(metadata=models.ObjectMeta(name="s"), data={"k": b64(b"secret"), "raw": b64(b"\xff")})


def ref(name, key, *, optional=None):
    return models.KeySelector(name=name, key=key, optional=optional)


def resolve(*env, env_from=(), **facts):
    container = models.Container(
        name="c",
        env=tuple(
            models.EnvVar(name=name, value=value)
            if isinstance(value, str)
            else models.EnvVar(name=name, value_from=value)
            for name, value in env
        ),
        env_from=env_from,
    )
    known = {"config_maps": {"c": CONFIG, "gone": None}, "secrets": {"s": SECRET}, **facts}
    return environment.resolve(POD, container, environment.Facts(**known))


# As third_party/forked/golang/expansion/expand_test.go.
@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(VAR_A)", "A"),
        ("___$(VAR_B)___", "___B___"),
        ("$(VAR_A)-$(VAR_B)", "A-B"),
        ("$(VAR_REF)_x", "$(VAR_A)_x"),
        ("$$(VAR_A)", "$(VAR_A)"),
        ("$$$(VAR_A)", "$A"),
        ("$$$$(VAR_A)", "$$(VAR_A)"),
        ("$(NO)", "$(NO)"),
        ("$(VAR_EMPTY)x", "x"),
        ("$()", "$()"),
        ("$", "$"),
        ("foo$", "foo$"),
        ("$(VAR_A", "$(VAR_A"),
        ("$VAR_A)", "$VAR_A)"),
        ("${VAR_A}", "${VAR_A}"),
        ("$(VAR_$(VAR_A)", "$(VAR_$(VAR_A)"),
        ("$(VAR_A)$", "A$"),
        ("é$(VAR_A)é", "éAé"),
        ("$é(", "$é("),
    ],
)
def test_references_are_expanded_as_in_a_kubelet(text, expanded):
    known = {"VAR_A": "A", "VAR_B": "B", "VAR_REF": "$(VAR_A)", "VAR_EMPTY": ""}
    assert environment.expand(text, known) == expanded


def test_variables_see_those_before_them_and_the_api_server():
    found = resolve(
        ("A", "1"),
        ("B", "$(A)$(C)"),
        ("C", "3"),
        ("A", "$(A)2"),
        ("API", "$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)"),
        api_server_host="192.0.2.1",
        api_server_port=6443,
    )
    assert [found[name] for name in "ABC"] == ["12", "1$(C)", "3"]
    assert found["API"] == "192.0.2.1:6443"
    assert found["KUBERNETES_PORT_6443_TCP_ADDR"] == "192.0.2.1"
    assert found["KUBERNETES_PORT"] == "tcp://192.0.2.1:6443"


def test_a_declared_variable_wins_over_the_api_servers():
    found = resolve(("KUBERNETES_SERVICE_HOST", "mine"), api_server_host="192.0.2.1")
    assert found["KUBERNETES_SERVICE_HOST"] == "mine"


def test_whole_objects_come_first_with_their_prefix_and_are_overridden():
    env_from = (
        models.EnvFromSource(config_map_ref=models.EnvFromRef(name="c")),
        models.EnvFromSource(prefix="P_", config_map_ref=models.EnvFromRef(name="c")),
        models.EnvFromSource(config_map_ref=models.EnvFromRef(name="gone", optional=True)),
    )
    found = resolve(("k", "own"), ("SEEN", "$(P_k)"), env_from=env_from)
    assert found == {"k": "own", "dashed-key": "d", "P_k": "v", "P_dashed-key": "d", "SEEN": "v"}


def test_keys_fields_and_optional_sources():
    found = resolve(
        ("KEPT", "before"),
        ("FROM_MAP", models.EnvVarSource(config_map_key_ref=ref("c", "k"))),
        ("FROM_SECRET", models.EnvVarSource(secret_key_ref=ref("s", "k"))),
        ("NAME", models.EnvVarSource(field_ref=models.ObjectFieldSelector(field_path="metadata.name"))),
        ("NO_KEY", models.EnvVarSource(config_map_key_ref=ref("c", "no", optional=True))),
        ("KEPT", models.EnvVarSource(secret_key_ref=ref("gone", "k", optional=True))),
        ("EMPTY", ""),
    )
    assert found == {"KEPT": "before", "FROM_MAP": "v", "FROM_SECRET": "secret", "NAME": "p", "EMPTY": ""}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (models.EnvVarSource(config_map_key_ref=ref("gone", "k")), 'configmap "gone" not found'),
        (models.EnvVarSource(secret_key_ref=ref("gone", "k")), 'secret "gone" not found'),
        (
            models.EnvVarSource(config_map_key_ref=ref("c", "no")),
            "couldn't find key no in ConfigMap ns/c",
        ),
        (models.EnvVarSource(secret_key_ref=ref("s", "no")), "couldn't find key no in Secret ns/s"),
        (models.EnvVarSource(secret_key_ref=ref("s", "raw")), "key raw in Secret ns/s is no UTF-8 text"),
        (models.EnvVarSource(file_key_ref={}), "not supported"),
    ],
)
def test_what_is_missing_is_named_as_the_kubelet_names_it(source, text):
    with pytest.raises(errors.ConfigError, match=text):
        resolve(("A", source))


def test_a_value_that_no_process_can_hold_is_refused():
    with pytest.raises(errors.ConfigError, match="variable k holds a NUL"):
        source = models.EnvFromSource(config_map_ref=models.EnvFromRef(name="c"))
        resolve(env_from=(source,), config_maps={"c": models.ConfigMap(data={"k": "a\0b"})})


def test_needs_are_the_objects_that_values_come_from():
    container = models.Container(
        name="c",
        env=(
            models.EnvVar(name="A", value_from=models.EnvVarSource(config_map_key_ref=ref("m1", "k"))),
            models.EnvVar(name="B", value_from=models.EnvVarSource(secret_key_ref=ref("s1", "k"))),
            models.EnvVar(name="C", value="v"),
        ),
        env_from=(
            models.EnvFromSource(config_map_ref=models.EnvFromRef(name="m2")),
            models.EnvFromSource(secret_ref=models.EnvFromRef(name="s2", optional=True)),
        ),
    )
    assert environment.needs(container) == environment.Needs(frozenset({"m1", "m2"}), frozenset({"s1", "s2"}))


def test_a_sub_path_needs_every_value():
    mount = models.VolumeMount(name="v", mount_path="/m", sub_path_expr="$(A)/$(B)/$(C)")
    assert environment.expand_sub_path(mount, {"A": "a", "B": "b", "C": "c"}) == "a/b/c"
    with pytest.raises(errors.ConfigError, match="missing value for B, C"):
        environment.expand_sub_path(mount, {"A": "a", "B": ""})


SERVICE_LINKS = {
    "WEB_UI_SERVICE_HOST": "10.96.0.10",
    "WEB_UI_SERVICE_PORT": "80",
    "WEB_UI_SERVICE_PORT_HTTP_MAIN": "80",
    "WEB_UI_PORT": "tcp://10.96.0.10:80",
    "WEB_UI_PORT_80_TCP": "tcp://10.96.0.10:80",
    "WEB_UI_PORT_80_TCP_PROTO": "tcp",
    "WEB_UI_PORT_80_TCP_PORT": "80",
    "WEB_UI_PORT_80_TCP_ADDR": "10.96.0.10",
    "WEB_UI_PORT_53_UDP": "udp://10.96.0.10:53",
    "WEB_UI_PORT_53_UDP_PROTO": "udp",
    "WEB_UI_PORT_53_UDP_PORT": "53",
    "WEB_UI_PORT_53_UDP_ADDR": "10.96.0.10",
}


def test_services_that_the_pod_reaches_are_named_as_a_kubelet_does():
    ports = (
        models.ServicePort(name="http-main", port=80),
        models.ServicePort(port=53, protocol="UDP"),
    )
    web = models.Service(
        metadata=models.ObjectMeta(name="web-ui"),
        spec=models.ServiceSpec(cluster_ip="10.96.0.10", ports=ports),
    )
    assert environment.service_links([web]) == SERVICE_LINKS
    facts = environment.Facts(api_server_host="10.0.0.1", api_server_port=6443, services=[web])
    found = environment.resolve(models.Pod(), models.Container(name="main"), facts)
    assert found == environment.service_variables("10.0.0.1", 6443) | SERVICE_LINKS


def test_the_api_servers_own_service_counts_for_more_than_an_address_of_its():
    own = models.Service(
        metadata=models.ObjectMeta(namespace="default", name="kubernetes"),
        spec=models.ServiceSpec(cluster_ip="10.96.0.1", ports=(models.ServicePort(name="https", port=443),)),
    )
    facts = environment.Facts(api_server_host="10.0.0.1", api_server_port=6443, services=[own])
    found = environment.resolve(models.Pod(), models.Container(name="main"), facts)
    assert found["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert "KUBERNETES_PORT_6443_TCP" not in found
    assert found == environment.service_variables("10.96.0.1", 443)


def test_a_service_that_only_has_the_api_servers_name_is_not_taken_for_it():
    other = models.Service(
        metadata=models.ObjectMeta(namespace="team", name="kubernetes"),
        spec=models.ServiceSpec(cluster_ip="10.96.0.66", ports=(models.ServicePort(name="https", port=443),)),
    )
    facts = environment.Facts(api_server_host="10.0.0.1", api_server_port=6443, services=[other])
    found = environment.resolve(models.Pod(), models.Container(name="main"), facts)
    assert found == environment.service_variables("10.0.0.1", 6443)
