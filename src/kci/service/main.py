"""`kci serve`: wires the service, starts it in order, stops it in order."""

from __future__ import annotations

import asyncio
import importlib.metadata
import sys
from collections.abc import Sequence

import structlog

from kci.kit import clock, crashpoints, entrance, environment, errors, logs, tasks, tracing
from kci.service import instruments, settings
from kci.service.app import (
    accounts,
    changes,
    credentials,
    groups,
    networks,
    replays,
    security_groups,
    starts,
    streams,
    usage,
)
from kci.service.engines import local
from kci.service.http import credentials as credential_actions
from kci.service.http import groups as group_actions
from kci.service.http import networks as network_actions
from kci.service.http import security_groups as security_group_actions
from kci.service.http import server, verification
from kci.service.http import streams as stream_actions
from kci.service.http import usage as usage_actions
from kci.service.reconcilers import groups as group_reconciler
from kci.service.reconcilers import reports
from kci.service.reconcilers import security_groups as security_group_reconciler
from kci.service.store import database, sealing
from kci.service.store import errors as store_errors

log = structlog.get_logger(__name__)
# A kcilet that hangs must not keep the service from taking calls.
_FIRST_TRY_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Returns its exit code: 1 with one clear text if it cannot run."""
    try:
        chosen = settings.read(arguments)
        logs.configure(chosen.log_level)
        crashpoints.arm(environment.read().get(crashpoints.ENVIRONMENT, ""))
        with database.open_database(chosen.database, chosen.encryption_key) as store:
            return tasks.run_program(lambda stop: serve(chosen, store, stop))
    except errors.UserError as error:
        print(error, file=sys.stderr)
        return 1


async def serve(chosen: settings.Settings, store: database.Database, stop: asyncio.Event) -> int:
    """Run until `stop` is set. What is not done by then goes on after the next start."""
    wall = clock.SystemClock()
    known = accounts.KnownAccounts([chosen.operator], sealing.Sealer(chosen.encryption_key))
    feed = changes.Feed()
    used = replays.Replays(store, wall, window_s=chosen.signature_skew_s)
    await _bootstrap(chosen, store, wall, used)
    reconcilers: list[group_reconciler.GroupReconciler] = []
    measured = instruments.make(queue_depth=lambda: sum(one.depth for one in reconcilers))
    version = importlib.metadata.version("kci")
    async with (
        measured.registry.served(chosen.metrics_address),
        tracing.opened("kci-service", version, environment.read()) as tracer,
        local.LocalEngine(str(chosen.kcilet_socket)) as engine,
    ):
        reconciler = group_reconciler.GroupReconciler(
            engine, on_taken=measured.queue_taken, on_worked=measured.queue_worked
        )
        reconcilers.append(reconciler)
        rules = security_group_reconciler.SecurityGroupReconciler(engine)
        security_group_service = security_groups.SecurityGroupService(
            store, wall, used, on_change=rules.signal
        )
        network_service = networks.NetworkService(store, chosen.place, wall, used, on_change=rules.signal)
        service = groups.GroupService(
            store,
            chosen.place,
            feed,
            wall,
            used,
            on_work=reconciler.signal,
            known_starts=starts.Starts(tracer),
        )
        stream_service = streams.StreamService(service, engine, replays=used)
        application = server.make_application(
            verification.Verifier(
                known,
                wall,
                region=chosen.place.region,
                skew_s=chosen.signature_skew_s,
            ),
            group_actions.GroupActions(service),
            stream_actions.StreamActions(stream_service, idle_s=chosen.stream_idle_s),
            credential_actions.CredentialActions(credentials.CredentialService(known, wall, replays=used)),
            network_actions.NetworkActions(network_service),
            security_group_actions.SecurityGroupActions(security_group_service),
            usage_actions.UsageActions(usage.UsageService(service, engine)),
            version=version,
            on_call=measured.on_call,
            tracer=tracer,
        )
        reader = reports.ReportReader(
            engine, service, reconciler, security_group_service, on_lost=measured.engine_lost
        )
        async with tasks.background("reports", reader.run()):
            # Nobody gets an answer from a store that the machine does not know.
            await tasks.first_of(
                stop.wait(), reader.wait_tried(), asyncio.sleep(_FIRST_TRY_S), name="first try"
            )
            bounds = entrance.Bounds.within(entrance.raise_file_limit())
            async with server.listening(
                application, chosen.host, chosen.port, before_end=feed.close, bounds=bounds
            ):
                log.info("serving", host=chosen.host, port=chosen.port, region=chosen.place.region)
                await tasks.first_of(
                    stop.wait(), reconciler.run(service), rules.run(security_group_service), name="serve"
                )
                log.info("stopping")
    return 0


async def _bootstrap(
    chosen: settings.Settings, store: database.Database, wall: clock.Clock, used: replays.Replays
) -> None:
    """What the settings name becomes rows. Nobody is there yet to be told of it."""
    try:
        await networks.NetworkService(store, chosen.place, wall, used, on_change=lambda: None).bootstrap(
            chosen.network
        )
    except store_errors.StoreError as error:
        raise errors.UserError(str(error)) from error


if __name__ == "__main__":
    raise SystemExit(main())
