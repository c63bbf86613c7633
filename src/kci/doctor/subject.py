"""What the doctor examines: the stack of a state folder, or a cluster by its kubeconfig and what its virtual
node is told. What is not at hand has its reason in words.

Blocking: for the start of the command.
"""

from __future__ import annotations

import dataclasses
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence

from kci.doctor.facts import stack
from kci.doctor.findings import cluster as cluster_findings
from kci.doctor.findings import stack as findings
from kci.kit import errors
from kci.kube import config as configs
from kci.provider import flags as node_flags
from kci.provider import kubeconfig as handed
from kci.provider import settings as node_settings
from kci.stack import layout, namespaces, parts, preparation, programs, record, typed
from kci.stack import settings as stack_settings

# What an environment has that is a virtual node's.
_MARKS = ("KCI_", "VKUBELET_", "TEMP_AKSK_", "AKSK_", "DEFAULT_NODE_NAME")
ADDRESS, _UNKNOWN = "VKUBELET_POD_IP", "0.0.0.0"
NOT_TOLD = "what the virtual node is told was not given: --env-file FILE, or its KCI_* variables"
_NO_KUBECONFIG = ": kciletKubeconfigPath names "
_FORM_B = "form B, deploy/least-privilege/service-account"
# `python -P -m MODULE` before a program's flags.
_PYTHON_WORDS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Why:
    """Why an area is not at hand; empty if it is."""

    machine: str = ""
    stack: str = ""
    # Of the node as well.
    cluster: str = ""
    kci: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """A state folder. `prepared` is None where no stack runs in it."""

    where: layout.Layout
    asked: stack_settings.Settings
    supervisor: findings.Supervisor
    prepared: preparation.Prepared | None = None
    # Why the folder cannot be used.
    problem: str = ""

    @property
    def place(self) -> typed.Place:
        return typed.Place(self.asked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """What the virtual node is told, and what is wrong with that. `config`: as whom it calls the cluster."""

    settings: node_settings.Settings
    config: configs.ClusterConfig
    problems: tuple[str, ...] = ()
    # Nothing was said of it: then its settings are defaults, of which only the node's name is of use.
    is_told: bool = True
    # It was told no kubeconfig: it runs as a pod, with this ServiceAccount.
    service_account: cluster_findings.ServiceAccount | None = None
    # The files of --kubeconfig and --provider-config, if they are not here.
    unread_identity: str = ""
    unread_config: str = ""
    # Where it runs its address is filled in; elsewhere nobody may know it.
    knows_address: bool = True
    # How one sees what the program says, and types the rest.
    log: str = ""
    place: typed.Place = typed.USUAL

    @property
    def why_not_itself(self) -> str:
        """Why system:node:<name> may be nobody: the virtual node then acts as its account. Empty if it is not
        so.
        """
        if self.unread_config:
            return (
                f"the node may act as its ServiceAccount ({_FORM_B}): "
                f"--provider-config={self.unread_config} is not here"
            )
        if self.settings.instance_kubeconfig is not None:
            return f"the node acts as its ServiceAccount ({_FORM_B})"
        return ""

    @property
    def server_of_instances(self) -> str | None:
        """Where instances reach the API server; None if the node has to find it out."""
        own_host = urllib.parse.urlsplit(self.config.server).hostname or ""
        # In its pod the API server is a ClusterIP, whatever our own kubeconfig calls it.
        service_host = own_host if self.service_account is not None else self.settings.service_host
        return handed.choose_server(
            self.config.server, cluster_server=self.settings.cluster_server, service_host=service_host
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    stack: Stack | None = None
    # Who asks; an administrator's sees most.
    cluster: configs.ClusterConfig | None = None
    node: Node | None = None
    # Whether what the API server and instances reach is reached from here as well.
    is_here: bool = False
    why_not: Why = Why()


def of_stack(state_dir: pathlib.Path) -> Subject:
    """Enters the stack's network namespace: before the first thread of this process."""
    where = layout.Layout(state_dir.expanduser().absolute())
    asked = stack_settings.Settings(state_dir=str(where.root))
    try:
        choices = record.read_choices(where)
        supervisor = stack.supervisor(where)
        if where.launch.exists():
            asked = record.read_launch(where).settings
    except errors.UserError as error:
        nothing = findings.Supervisor(None, is_alive=False, is_locked=False)
        broken = Stack(where=where, asked=asked, supervisor=nothing, problem=str(error))
        return _without_cluster(broken, f"the state folder {where.root} cannot be used")
    found = Stack(where=where, asked=asked, supervisor=supervisor)
    if choices is None or not where.identity.exists() or not findings.is_up(supervisor):
        return _without_cluster(found, f"no stack runs in {where.root} ({found.place.up})")
    _enter(supervisor)
    try:
        prepared = _prepare(where, asked, choices)
        found = dataclasses.replace(found, prepared=prepared)
        administrator = preparation.administrator(prepared)
    except (errors.UserError, OSError, UnicodeDecodeError) as error:
        return _without_cluster(found, f"its administrator's access is not there: {error}")
    node = _node_of_stack(prepared, administrator)
    if node is None:
        return _without_cluster(found, f"the stack's node has no identity yet: {found.place.kci('status')}")
    return Subject(stack=found, cluster=administrator, node=node, is_here=True)


def of_cluster(
    kubeconfig: pathlib.Path,
    variables: Mapping[str, str],
    flags: Sequence[str],
    service_account: cluster_findings.ServiceAccount = cluster_findings.SERVICE_ACCOUNT,
) -> Subject:
    """UserError if the kubeconfig cannot be used. Another one of the node's is among its flags."""
    cluster = configs.load(kubeconfig)
    told = {ADDRESS: _UNKNOWN, **variables, "KUBECONFIG": str(kubeconfig)}
    settings, problems = node_settings.read(flags, told)
    given = node_flags.read(flags, [], [])
    unread = _absent(given["provider-config"])
    # These files are where the node runs.
    passed_over = f"--provider-config={unread}: " if unread else _NO_KUBECONFIG
    own = settings.kubeconfig if given["kubeconfig"] else None
    unread_identity = _absent(given["kubeconfig"])
    # Of one that is not here its flag's line tells.
    config = configs.load(own) if own is not None and not unread_identity else cluster
    is_told = bool(flags) or any(name.startswith(_MARKS) for name in variables)
    node = Node(
        settings=settings,
        config=config,
        problems=tuple(one for one in problems if passed_over not in one),
        is_told=is_told,
        service_account=service_account if own is None else None,
        unread_identity=unread_identity,
        unread_config=unread,
        knows_address=ADDRESS in variables,
        log="kubectl -n kube-system logs -l k8s-app=virtual-kubelet",
    )
    here = "--kubeconfig names a cluster, not the machine of a kci up"
    why_not = Why(machine=here, stack=here, kci="" if is_told else NOT_TOLD)
    return Subject(cluster=cluster, node=node, why_not=why_not)


def read_service_account(text: str) -> cluster_findings.ServiceAccount:
    """NAMESPACE/NAME, else UserError."""
    namespace, _, name = text.partition("/")
    if not namespace or not name or "/" in name:
        raise errors.UserError(f"--service-account is {text!r}: write NAMESPACE/NAME")
    return cluster_findings.ServiceAccount(namespace, name)


def read_env_file(file: pathlib.Path) -> dict[str, str]:
    """Lines NAME=VALUE, as `kubectl set env --list` prints them; UserError if it cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UserError(
            f"cannot read --env-file {file}: {error}; write NAME=VALUE there, a line each"
        ) from error
    rows = (line.strip().partition("=") for line in lines if not line.lstrip().startswith("#"))
    return {name.strip(): value.strip().strip("'\"") for name, sign, value in rows if sign}


def _absent(files: Sequence[str]) -> str:
    """The one that counts, if it is not here."""
    return files[-1] if files and not pathlib.Path(files[-1]).is_file() else ""


def _without_cluster(found: Stack, why: str) -> Subject:
    of_stack = why if found.prepared is None else ""
    return Subject(stack=found, why_not=Why(stack=of_stack, cluster=why, kci=why))


def _enter(supervisor: findings.Supervisor) -> None:
    if supervisor.state is not None:
        namespaces.enter_network_of_stack(supervisor.state)


def _prepare(
    where: layout.Layout, asked: stack_settings.Settings, choices: record.Choices
) -> preparation.Prepared:
    return preparation.Prepared(
        where,
        asked,
        stack_settings.read_machine(),
        preparation.kept_ranges(choices),
        choices,
        record.read_or_make_identity(where),
        binaries=None,
        cluster=configs.load(pathlib.Path(asked.kubeconfig)) if asked.kubeconfig else None,
    )


def _node_of_stack(prepared: preparation.Prepared, administrator: configs.ClusterConfig) -> Node | None:
    """As the supervisor starts it; None before the node has its identity."""
    kubeconfig = prepared.where.node_pki / "kubeconfig"
    if not kubeconfig.exists():
        return None
    command = programs.virtual_kubelet(
        prepared.program_plan(),
        cluster_server=administrator.server,
        node_kubeconfig=kubeconfig,
        cluster_dns=prepared.gateway if prepared.asked.own_dns else "",
    )
    settings, problems = node_settings.read(command.argv[_PYTHON_WORDS:], command.env)
    return Node(
        settings=settings,
        config=configs.load(kubeconfig),
        problems=tuple(problems),
        log=f"tail {prepared.where.log(parts.Part.VIRTUAL_KUBELET)}",
        place=typed.Place(prepared.asked),
    )
