"""SQL for signatures that were used: known as long as their request would pass the verifier again."""

from __future__ import annotations

import datetime

import sqlalchemy as sa

from kci.contract import ids
from kci.service.store import database, schema

_SIGNATURES = schema.signatures


def is_known(session: database.Session, tenant_id: ids.TenantId, signature: str) -> bool:
    query = sa.select(_SIGNATURES.c.signature).where(
        _SIGNATURES.c.tenant_id == tenant_id, _SIGNATURES.c.signature == signature
    )
    return session.connection.scalar(query) is not None


def count(session: database.Session, tenant_id: ids.TenantId) -> int:
    query = sa.select(sa.func.count()).select_from(_SIGNATURES).where(_SIGNATURES.c.tenant_id == tenant_id)
    return session.connection.scalar(query) or 0


def insert_signature(
    session: database.Session, tenant_id: ids.TenantId, signature: str, *, good_until: datetime.datetime
) -> None:
    values = {"tenant_id": tenant_id, "signature": signature, "good_until_ms": _to_ms(good_until)}
    session.connection.execute(_SIGNATURES.insert(), values)


def remove_ended(session: database.Session, *, now: datetime.datetime) -> None:
    session.connection.execute(_SIGNATURES.delete().where(_SIGNATURES.c.good_until_ms < _to_ms(now)))


def _to_ms(moment: datetime.datetime) -> int:
    return round(moment.timestamp() * 1000)
