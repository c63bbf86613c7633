"""Pods and containers in the CRI's words."""

import json
import pathlib

import msgspec
import pytest

from kci.kcilet import ports
from kci.kcilet.drivers.logs import folders
from kci.kcilet.drivers.runtime import containers, sandboxes
from kci.kcilet.drivers.runtime.api import api_pb2
from kci.kube import models

MIB = 1 << 20
MACHINE_BYTES = 1000 * MIB


def make_pod(container=None, *, qos_class="Burstable", **spec):
    return models.Pod(
        metadata=models.ObjectMeta(
            name="web",
            namespace="shop",
            uid="uid-1",
            annotations={"cdi.k8s.io/x": "y"},
            labels={"app": "web"},
        ),
        spec=models.PodSpec(containers=(container or models.Container(name="main"),), **spec),
        status=models.PodStatus(qos_class=qos_class),
    )


def to_config(container, *, pod=None, image_user="", env=None, mounts=(), **ceilings):
    spec = ports.ContainerSpec(
        pod=pod or make_pod(container),
        container=container,
        attempt=2,
        image_id="sha256:1",
        env=env or {},
        mounts=mounts,
        **ceilings,
    )
    return containers.to_container_config(spec, image_user=image_user, machine_memory_bytes=MACHINE_BYTES)


def resources(**given):
    return to_config(
        models.Container(name="main", resources=models.ResourceRequirements(**given))
    ).linux.resources


def sandbox_spec(pod):
    return ports.SandboxSpec(
        pod=pod,
        group_id="g-1",
        attempt=1,
        hostname="web",
        log_directory="/logs/uid-1",
        cgroup_parent="/kci/poduid-1",
        dns=ports.DnsConfig(servers=("10.0.0.10",), searches=("svc",), options=("ndots:5",)),
    )


class TestSandbox:
    def test_it_is_labelled_so_that_it_is_known_again_and_takes_nothing_from_the_tenant(self):
        config = sandboxes.to_sandbox_config(sandbox_spec(make_pod()))
        assert dict(config.labels) == {
            "io.kubernetes.pod.name": "web",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.uid": "uid-1",
            "kci.ksyun.com/managed": "true",
            "kci.ksyun.com/group-id": "g-1",
        }
        assert not [key for key in config.annotations if "cdi" in key]

    def test_it_is_confined_and_has_its_own_network(self):
        context = sandboxes.to_sandbox_config(sandbox_spec(make_pod())).linux.security_context
        assert context.seccomp.profile_type == api_pb2.SecurityProfile.Localhost
        profile = json.loads(pathlib.Path(context.seccomp.localhost_ref).read_text())
        assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
        allowed = {name for rule in profile["syscalls"] for name in rule["names"]}
        assert "pause" in allowed
        assert not {"mount", "ptrace", "unshare", "setns", "bpf", "init_module"} & allowed
        assert not context.privileged
        assert context.namespace_options.network == api_pb2.NamespaceMode.POD
        assert context.namespace_options.pid == api_pb2.NamespaceMode.CONTAINER

    def test_what_create_container_needs_can_be_read_back_from_the_runtime(self):
        config = sandboxes.to_sandbox_config(sandbox_spec(make_pod()))
        listed = api_pb2.PodSandbox(
            metadata=config.metadata, labels=config.labels, annotations=config.annotations
        )
        known = sandboxes.to_known_config(listed)
        assert (known.hostname, known.log_directory) == ("web", "/logs/uid-1")
        assert known.linux.cgroup_parent == "/kci/poduid-1"
        assert known.metadata == config.metadata


class TestContainer:
    def test_it_carries_names_attempt_log_and_environment(self):
        config = to_config(
            models.Container(name="main", command=("sh",), args=("-c", "x"), tty=True, stdin=True),
            env={"A": "ä"},
        )
        assert (config.metadata.name, config.metadata.attempt, config.log_path) == ("main", 2, "main/2.log")
        assert config.labels["io.kubernetes.container.name"] == "main"
        assert (list(config.command), list(config.args)) == (["sh"], ["-c", "x"])
        assert (config.tty, config.stdin, config.stdin_once) == (True, True, False)
        assert [(env.key, env.value.decode()) for env in config.envs] == [("A", "ä")]

    def test_mounts_keep_read_only_and_propagation(self):
        mounts = [
            ports.Mount("/a", "/host/a", read_only=True),
            ports.Mount("/b", "/host/b", propagation="HostToContainer"),
        ]
        first, second = to_config(models.Container(name="main"), mounts=mounts).mounts
        assert (first.container_path, first.host_path, first.readonly) == ("/a", "/host/a", True)
        assert second.propagation == api_pb2.MountPropagation.PROPAGATION_HOST_TO_CONTAINER

    def test_a_mount_that_would_reach_the_machine_is_refused(self):
        with pytest.raises(ports.ContainerError, match="Bidirectional"):
            to_config(
                models.Container(name="main"), mounts=[ports.Mount("/a", "/b", propagation="Bidirectional")]
            )


class TestResources:
    def test_requests_are_shares_and_limits_are_quota_and_memory(self):
        given = resources(requests={"cpu": "500m"}, limits={"cpu": "1500m", "memory": "64Mi"})
        assert (given.cpu_shares, given.cpu_period, given.cpu_quota) == (512, 100_000, 150_000)
        assert given.memory_limit_in_bytes == 64 * MIB

    def test_a_limit_stands_in_for_a_request_and_nothing_is_no_limit(self):
        assert resources(limits={"cpu": "2"}).cpu_shares == 2048
        none = resources()
        assert (none.cpu_shares, none.cpu_quota, none.memory_limit_in_bytes) == (2, 0, 0)

    def test_a_limit_over_the_pods_size_is_clamped_and_none_stays_none(self):
        container = models.Container(
            name="main", resources=models.ResourceRequirements(limits={"cpu": "4", "memory": "1Gi"})
        )
        given = to_config(container, cpu_milli_limit=1000, memory_mib_limit=128).linux.resources
        assert (given.cpu_quota, given.memory_limit_in_bytes) == (100_000, 128 * MIB)
        free = to_config(models.Container(name="main"), cpu_milli_limit=1000).linux.resources
        assert free.cpu_quota == 0

    @pytest.mark.parametrize(
        ("qos_class", "request_", "expected"),
        [
            ("Guaranteed", "100Mi", 0),
            ("BestEffort", None, 1000),
            ("Burstable", "100Mi", 900),
            ("Burstable", None, 999),
        ],
    )
    def test_the_kernel_chooses_victims_as_on_a_kubelet_but_never_us_first(
        self, qos_class, request_, expected
    ):
        container = models.Container(
            name="main",
            resources=models.ResourceRequirements(requests={"memory": request_} if request_ else {}),
        )
        config = to_config(container, pod=make_pod(container, qos_class=qos_class))
        assert config.linux.resources.oom_score_adj == expected


class TestSecurity:
    def context(self, own=None, *, pod=None, image_user=""):
        container = models.Container(name="main", security_context=own)
        made = make_pod(container, security_context=pod)
        return to_config(container, pod=made, image_user=image_user).linux.security_context

    def test_nothing_said_is_the_runtimes_seccomp_profile_and_the_images_user(self):
        context = self.context(image_user="1000")
        assert context.seccomp.profile_type == api_pb2.SecurityProfile.RuntimeDefault
        assert (context.run_as_user.value, context.run_as_username) == (1000, "")
        assert "/proc/kcore" in context.masked_paths
        assert "/proc/sys" in context.readonly_paths
        assert not context.no_new_privs

    def test_an_image_user_by_name_is_passed_by_name(self):
        context = self.context(image_user="nginx")
        assert (context.HasField("run_as_user"), context.run_as_username) == (False, "nginx")

    def test_the_containers_own_word_wins_over_the_pods(self):
        shared = models.PodSecurityContext(
            run_as_user=1, run_as_group=2, fs_group=3, supplemental_groups=(4,)
        )
        context = self.context(models.SecurityContext(run_as_user=10), pod=shared)
        assert (context.run_as_user.value, context.run_as_group.value) == (10, 2)
        assert list(context.supplemental_groups) == [3, 4]

    def test_privileges_can_be_given_up(self):
        own = models.SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=models.Capabilities(add=("NET_BIND_SERVICE",), drop=("ALL",)),
        )
        context = self.context(own)
        assert context.no_new_privs
        assert context.readonly_rootfs
        assert list(context.capabilities.add_capabilities) == ["NET_BIND_SERVICE"]
        assert "ALL" in context.capabilities.drop_capabilities

    @pytest.mark.parametrize(
        "own",
        [
            models.SecurityContext(privileged=True),
            models.SecurityContext(seccomp_profile=models.SeccompProfile(type="Unconfined")),
            models.SecurityContext(seccomp_profile=models.SeccompProfile(type="Localhost")),
            models.SecurityContext(proc_mount="Unmasked"),
        ],
    )
    def test_what_opens_the_machine_is_refused(self, own):
        with pytest.raises(ports.ContainerError, match="cannot run container 'main'") as caught:
            self.context(own)
        assert caught.value.reason == "CreateContainerConfigError"

    @pytest.mark.parametrize(
        ("user", "image_user", "allowed"),
        [
            (1000, "", True),
            (0, "1000", False),
            (None, "1000", True),
            (None, "", False),
            (None, "0", False),
            (None, "web", False),
        ],
    )
    def test_non_root_is_kept(self, user, image_user, allowed):
        own = models.SecurityContext(run_as_non_root=True, run_as_user=user)
        if allowed:
            assert self.context(own, image_user=image_user).run_as_user.value == 1000
            return
        with pytest.raises(ports.ContainerError, match=r"runAsNonRoot"):
            self.context(own, image_user=image_user)


@pytest.mark.parametrize("name", ["../../etc/cron.d", "/etc", "a/b", "..", ""])
def test_names_of_a_lying_api_server_lead_out_of_no_folder(name):
    with pytest.raises(ports.ContainerError, match="name"):
        to_config(models.Container(name=name))
    pod = make_pod()
    pod = msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, namespace=f"{name}/x"))
    with pytest.raises(ports.DriverError, match="folder"):
        folders.Folders(pathlib.Path("/logs")).log_directory(pod)
