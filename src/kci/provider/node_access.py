"""What the program reaches the cluster with, opened and kept: its account, the node's identity, and what its
kubelet API is served with. Which of them comes from a file and which from the cluster is decided here.

The account is what the program was given; where that is the node's identity already, the two are one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import structlog

from kci.kit import errors as kit_errors
from kci.kit import observing, tasks
from kci.kube import client as clients
from kci.kube import config as configs
from kci.kube import events, reasons, signing_requests
from kci.provider import client_authority, kubeconfig, node_certificates, node_identity
from kci.provider import settings as settings_module
from kci.vnode import kubelet_tls, lease

log = structlog.get_logger(__name__)

COMPONENT = "virtual-kubelet"
IDENTITY_REASON: Final = "IdentityNotIssued"
SERVING_REASON: Final = "ServingCertificateNotIssued"
CLIENT_CA_REASON: Final = "ClientCANotUsable"
_SERVING_FILE = "node-serving.pem"


@dataclasses.dataclass(frozen=True)
class Access:
    """`keep` follows and renews all of it, for ever."""

    account: clients.Client
    # False: the account is the node's identity.
    has_account: bool
    node: clients.Client
    # Of its own: no other call may hold up the heartbeat.
    lease: clients.Client
    # What instances are given at this moment.
    handed_on: Callable[[], configs.ClusterConfig]
    tls: kubelet_tls.Tls
    # What follows and renews, by name.
    keepers: tuple[tuple[str, Callable[[], Awaitable[None]]], ...]

    async def keep(self) -> None:
        async with tasks.Tasks() as group:
            for name, keeper in self.keepers:
                group.run_forever(name, _call(keeper))
            await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def opened(
    settings: settings_module.Settings,
    config: configs.ClusterConfig,
    stop: asyncio.Event,
    *,
    user_agent: str,
    on_call: observing.OnCall = observing.no_call,
) -> AsyncIterator[Access | None]:
    """Once the node has its identity; None if `stop` is set before. UserError if only a person can help."""
    tls = await tasks.in_thread(_load_files, settings)
    given = await tasks.in_thread(_given_to_instances, settings)
    client_request, serving_request = signing_requests.plan(settings.node_name, settings.node_address)
    async with (
        clients.Client(config, user_agent=user_agent, on_call=on_call) as account,
        _told_of_node(account, settings.node_name) as told,
    ):
        own = None
        if not node_identity.is_given(config, settings.node_name) and given is None:
            own = node_identity.Identity(
                account,
                client_request,
                node_name=settings.node_name,
                state_folder=settings.state_folder,
                tell=told(IDENTITY_REASON),
            )
            await tasks.first_of(stop.wait(), _obtain(own, settings), name="identity")
            if not own.is_obtained:
                yield None
                return
        acting = own.config if own is not None else config
        async with (
            clients.Client(acting, user_agent=user_agent, on_call=on_call) as node,
            clients.Client(
                acting, user_agent=user_agent, timeout_s=lease.CALL_TIMEOUT_S, on_call=on_call
            ) as lease_client,
        ):
            keepers: list[tuple[str, Callable[[], Awaitable[None]]]] = []
            if own is not None:
                own.add(node)
                own.add(lease_client)
                keepers.append(("identity", own.keeper.run))
            if settings.tls_cert_file is None:
                serving = _serving(account, node, serving_request, settings, tls, told(SERVING_REASON))
                keepers.append(("serving certificate", serving.run))
            if settings.client_ca_file is None:
                keepers.append(
                    (
                        "client CA",
                        lambda: client_authority.follow(
                            account, tls.use_client_ca, tell=told(CLIENT_CA_REASON)
                        ),
                    )
                )
            yield Access(
                account=account,
                has_account=own is not None,
                node=node,
                lease=lease_client,
                handed_on=lambda: given or (own.config if own is not None else config),
                tls=tls,
                keepers=tuple(keepers),
            )


async def _obtain(own: node_identity.Identity, settings: settings_module.Settings) -> None:
    try:
        async with asyncio.timeout(settings.startup_timeout_s or None):
            await own.keeper.obtain()
    except TimeoutError:
        raise kit_errors.UserError(
            f"cannot start the node {settings.node_name}: it has no identity within --startup-timeout "
            f"({settings.startup_timeout_s:g} s); the warnings before this say why"
        ) from None


def _serving(
    account: clients.Client,
    node: clients.Client,
    request: signing_requests.Request,
    settings: settings_module.Settings,
    tls: kubelet_tls.Tls,
    tell: node_certificates.Tell,
) -> node_certificates.Keeper:
    """Asked for by the node itself, as approvers want it, and approved by the account if that may."""

    async def use(pair: signing_requests.Pair) -> None:
        tls.use_certificate(pair.certificate_pem, pair.key_pem)

    return node_certificates.Keeper(
        request,
        node_certificates.Issuer(node, approver=account, node_name=settings.node_name, tell=tell),
        file=settings.state_folder / _SERVING_FILE if settings.state_folder is not None else None,
        use=use,
    )


@contextlib.asynccontextmanager
async def _told_of_node(
    account: clients.Client, node_name: str
) -> AsyncIterator[Callable[[reasons.OfNode], node_certificates.Tell]]:
    """For a reason, what tells of it: in the log and as an Event of the node, once for each text."""
    recorder = events.EventRecorder(account, component=COMPONENT, host=node_name)

    def telling(reason: reasons.OfNode) -> node_certificates.Tell:
        last = ""

        def tell(trouble: str) -> None:
            nonlocal last
            if trouble and trouble != last:
                log.warning(trouble, node=node_name)
                recorder.record(
                    events.of_node(node_name), type=events.WARNING, reason=reason, message=trouble
                )
            last = trouble

        return tell

    async with tasks.background("access events", recorder.run()):
        yield telling


def _load_files(settings: settings_module.Settings) -> kubelet_tls.Tls:
    tls = kubelet_tls.Tls()
    if settings.client_ca_file is not None:
        kubelet_tls.load_client_ca(tls, settings.client_ca_file)
    if settings.tls_cert_file is not None and settings.tls_private_key_file is not None:
        kubelet_tls.load_certificate(tls, settings.tls_cert_file, settings.tls_private_key_file)
    return tls


def _given_to_instances(settings: settings_module.Settings) -> configs.ClusterConfig | None:
    """None: the node's identity."""
    if settings.instance_kubeconfig is None:
        return None
    given = configs.load(settings.instance_kubeconfig)
    kubeconfig.check_identity(given)
    return given


async def _call(work: Callable[[], Awaitable[None]]) -> None:
    await work()
