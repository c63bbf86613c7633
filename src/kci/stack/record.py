"""What a stack remembers, as files in its state folder: its choices, its secrets, and what runs now.

`stack.json` marks the folder as ours and is written once; `state.json` is the supervisor's, rewritten
at each change and read by every other command. Nothing here trusts a bare pid: a process is a pid
with its start time, in one boot.
"""

from __future__ import annotations

import contextlib
import enum
import pathlib
import secrets
import uuid

import msgspec

from kci.kit import files
from kci.stack import errors, layout, settings, typed

# The form of the whole state folder. Raise it when an older kci could not read or run what is in it.
FORMAT = 1


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """Chosen at the first start and kept for the stack's life."""

    format: int
    kci_version: str
    # "" for a control plane of ours, else the server of the user's cluster.
    cluster: str
    pod_cidr: str
    service_cidr: str
    # Free loopback ports of parts that nobody outside talks to.
    etcd_port: int
    etcd_peer_port: int
    controller_manager_port: int
    scheduler_port: int
    registry_port: int
    # 0 in a folder that was written before there was a DNS: chosen at the next start.
    dns_ready_port: int = 0
    dns_metrics_port: int = 0
    # Where our programs tell of themselves.
    service_metrics_port: int = 0
    kcilet_metrics_port: int = 0
    node_metrics_port: int = 0
    # On the gateway address.
    metrics_server_port: int = 0


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's account and the default network objects of our KCI service. Secret."""

    access_key: str
    secret_key: str
    cluster_id: str
    subnet_id: str
    security_group_id: str

    def __repr__(self) -> str:
        return f"Identity(access_key={self.access_key!r}, cluster_id={self.cluster_id!r})"


class PartState(enum.StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    # A process is running once it answers; a step is done.
    RUNNING = "running"
    DONE = "done"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


class StackState(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


class ProcessId(msgspec.Struct, frozen=True, kw_only=True):
    """A process that cannot be mistaken for a later one with the same pid (within one boot)."""

    pid: int
    # Field 22 of /proc/<pid>/stat: clock ticks since boot.
    start_ticks: int


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    state: PartState = PartState.WAITING
    # What it is doing, or the cause when it failed.
    detail: str = ""
    process: ProcessId | None = None
    version: str = ""
    started_in_s: float | None = None
    restarts: int = 0
    log_file: str = ""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What was changed outside the state folder and must be put back. Written before it is done."""

    netns_created: str = ""
    ip_forward_was: str = ""
    # A Node of ours may stand in a cluster that is not ours; that outlives a reboot.
    node_registered: bool = False
    # Pods may run, whatever became of the programs.
    has_pods: bool = False


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The supervisor's account of itself."""

    run_id: str
    boot_id: str
    state: StackState
    supervisor: ProcessId | None
    started_at: str
    started_in_s: float | None = None
    parts: tuple[PartRecord, ...] = ()
    changes: Changes = Changes()
    netns: str = ""
    node_name: str = ""
    kubeconfig: str = ""
    # The server of a cluster that is not ours, and whether our Node was left in it at the end.
    cluster: str = ""
    node_kept: bool = False
    gateway: str = ""
    kci_endpoint: str = ""
    kci_region: str = ""
    env_file: str = ""
    # Where public images come from, in words.
    images: str = ""
    # What on this machine may be in the stack's way, with what can be done.
    warnings: tuple[str, ...] = ()
    # Why it failed, and the last log lines of the part that did.
    failure: str = ""
    failure_log: tuple[str, ...] = ()

    def part(self, name: str) -> PartRecord:
        return next((part for part in self.parts if part.name == name), PartRecord(name=name))


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor was started with."""

    run_id: str
    settings: settings.Settings


class DownRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `kci down` wants of the supervisor that it stops."""

    keep_node: bool = False


def boot_id() -> str:
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_choices(where: layout.Layout) -> Choices | None:
    """None before the first start; StackError if the folder is not this version's, or not ours at all."""
    try:
        data = where.choices.read_bytes()
    except PermissionError as error:
        raise errors.StackError(
            f"cannot read the state folder {where.root}: it is root's alone; use sudo"
        ) from error
    except FileNotFoundError:
        # Lock, logs and the launch file come first; without the latter other content is somebody else's.
        if not where.launch.exists() and _has_other_content(where):
            raise errors.StackError(
                f"cannot use the state folder {where.root}: it is not empty and not a stack's; "
                "choose another with --state-dir"
            ) from None
        return None
    except NotADirectoryError as error:
        raise errors.StackError(
            f"cannot use the state folder {where.root}: it is not a folder; choose another with --state-dir"
        ) from error
    remedy = "use that version, or its `kci down --purge`, or choose another --state-dir"
    try:
        form = msgspec.json.decode(data, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise errors.StackError(
            f"cannot read {where.choices}: the file is damaged; restore it, or {remedy}"
        ) from error
    if form.get("format") != FORMAT:
        raise errors.StackError(
            f"cannot use the state folder {where.root}: it was written by kci {form.get('kci_version', '?')} "
            f"in format {form.get('format', '?')}, and this version writes format {FORMAT}; {remedy}"
        )
    try:
        return msgspec.convert(form, type=Choices)
    except msgspec.ValidationError as error:
        raise errors.StackError(f"cannot read {where.choices}: {error}; restore it, or {remedy}") from error


def _has_other_content(where: layout.Layout) -> bool:
    return where.root.is_dir() and not {path.name for path in where.root.iterdir()} <= {
        where.lock.name,
        where.logs.name,
    }


def read_state(where: layout.Layout) -> State | None:
    """None if nothing was started yet; StackError if the file is damaged or another version's."""
    try:
        return msgspec.json.decode(where.state.read_bytes(), type=State)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.ValidationError as error:
        raise errors.StackError(
            f"cannot read {where.state}: {error}; stop the stack with the kci that started it"
        ) from error
    except msgspec.DecodeError as error:
        raise errors.StackError(
            f"cannot read {where.state}: the file is damaged; stop the stack by "
            f"`kill $(fuser {where.lock})`, which writes it anew, or remove it if that names no process"
        ) from error


def read_launch(where: layout.Layout) -> Launch:
    try:
        return msgspec.json.decode(where.launch.read_bytes(), type=Launch)
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise errors.StackError(f"cannot read {where.launch}: {error}; run `kci up` again") from error


def read_place(where: layout.Layout) -> typed.Place:
    """How commands about the stack of a folder are typed; whatever the folder's files are like."""
    try:
        return typed.Place(read_launch(where).settings)
    except errors.StackError:
        return typed.Place(settings.Settings(state_dir=str(where.root)))


def restore_launch(where: layout.Layout) -> None:
    """What is left of an earlier run goes on, or ends, with the settings that it was started with."""
    with contextlib.suppress(FileNotFoundError):
        where.launch_before.replace(where.launch)


def forget_launch_before(where: layout.Layout) -> None:
    where.launch_before.unlink(missing_ok=True)


def read_down_request(where: layout.Layout) -> DownRequest:
    try:
        return msgspec.json.decode(where.down_request.read_bytes(), type=DownRequest)
    except FileNotFoundError:
        return DownRequest()
    except msgspec.DecodeError:
        # Damaged. A Node that is kept can still be deleted.
        return DownRequest(keep_node=True)


def read_or_make_identity(where: layout.Layout) -> Identity:
    """The stack's identity, made at its first start. Its files are readable by root alone. StackError if it
    is damaged: another one would know nothing of what runs.
    """
    try:
        return msgspec.json.decode(where.identity.read_bytes(), type=Identity)
    except FileNotFoundError:
        pass
    except msgspec.DecodeError as error:
        # Not the decoder's words: they may quote a secret.
        raise errors.StackError(
            f"cannot read {where.identity}: the file is damaged; restore it from a copy, or "
            "`kci down --purge` first"
        ) from error
    identity = Identity(
        access_key="AKLT" + secrets.token_hex(10),
        secret_key=secrets.token_urlsafe(33),
        cluster_id=str(uuid.uuid4()),
        subnet_id=str(uuid.uuid4()),
        security_group_id=str(uuid.uuid4()),
    )
    files.write_atomic(where.identity, msgspec.json.encode(identity))
    return identity


def write(path: pathlib.Path, value: msgspec.Struct, *, mode: int = 0o600) -> None:
    files.write_atomic(path, msgspec.json.format(msgspec.json.encode(value), indent=1), mode=mode)
