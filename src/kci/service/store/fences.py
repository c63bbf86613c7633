"""SQL for the epochs in which holders write: the highest one of each counts."""

from __future__ import annotations

import datetime

import sqlalchemy as sa

from kci.contract import groups as api
from kci.contract import ids
from kci.service.store import database, schema

_FENCES = schema.fences


def get_epoch(session: database.Session, tenant_id: ids.TenantId, holder: str) -> int:
    """The highest epoch in which this holder wrote; -1 if it never did."""
    found = session.connection.scalar(sa.select(_FENCES.c.epoch).where(*_key(tenant_id, holder)))
    return -1 if found is None else found


def raise_epoch(
    session: database.Session, tenant_id: ids.TenantId, fence: api.Fence, *, now: datetime.datetime
) -> None:
    """Note that the holder wrote in this epoch, which must not be lower than what `get_epoch` gave."""
    values = {"epoch": fence.epoch, "used_at_ms": round(now.timestamp() * 1000)}
    changed = session.connection.execute(
        _FENCES.update().where(*_key(tenant_id, fence.holder)).values(**values)
    )
    if not changed.rowcount:
        session.connection.execute(
            _FENCES.insert(), {"tenant_id": tenant_id, "holder": fence.holder, **values}
        )


def remove_unused(session: database.Session, *, before: datetime.datetime) -> int:
    """Forget holders that did not write since then; returns how many."""
    result = session.connection.execute(
        _FENCES.delete().where(_FENCES.c.used_at_ms < round(before.timestamp() * 1000))
    )
    return result.rowcount


def _key(tenant_id: ids.TenantId, holder: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (_FENCES.c.tenant_id == tenant_id, _FENCES.c.holder == holder)
