"""SQL for the kubeconfig that each node gave last: it serves all groups of that node.

A group keeps the one that it was made with as well, which counts where its node has given none: for groups
that name no node, and for those from before these rows were kept.
"""

from __future__ import annotations

import datetime

import sqlalchemy as sa

from kci.kit import secret
from kci.service.domain import groups
from kci.service.store import checksums, database, schema
from kci.service.store import groups as groups_table

_KUBECONFIGS = schema.node_kubeconfigs
_KEY = (_KUBECONFIGS.c.tenant_id, _KUBECONFIGS.c.cluster_id, _KUBECONFIGS.c.node_name)


def get_newest(session: database.Session, group: groups.Group) -> secret.Secret:
    """What the group's node gave last; empty if nothing is kept. Raises SealError."""
    query = sa.select(_KUBECONFIGS.c.kubeconfig_sealed).where(*_of(group))
    sealed = session.connection.scalar(query)
    return session.sealer.open(sealed, owner=_owner(group)) if sealed else secret.Secret("")


def update_newest(
    session: database.Session, group: groups.Group, kubeconfig: secret.Secret, *, given_at: datetime.datetime
) -> bool:
    """Note that the group's node gave this one; whether it is another than before. The same one again, which
    nearly every create brings, writes nothing and opens nothing. One that was given before what is kept, by a
    call that came late or once more, changes nothing.
    """
    if not (group.cluster_id and group.node_name):
        return False
    fingerprint = session.sealer.fingerprint(kubeconfig, owner=_owner(group))
    query = sa.select(_KUBECONFIGS.c.fingerprint, _KUBECONFIGS.c.given_at).where(*_of(group))
    known = session.connection.execute(query).one_or_none()
    given_at_s = int(given_at.timestamp())
    if known is not None and (known.fingerprint == fingerprint or given_at_s < known.given_at):
        return False
    values = {
        "fingerprint": fingerprint,
        "given_at": given_at_s,
        "kubeconfig_sealed": session.sealer.seal(kubeconfig, owner=_owner(group)),
    }
    changed = session.connection.execute(_KUBECONFIGS.update().where(*_of(group)).values(**values))
    if not changed.rowcount:
        names = {
            "tenant_id": group.tenant_id,
            "cluster_id": group.cluster_id,
            "node_name": group.node_name,
        }
        session.connection.execute(_KUBECONFIGS.insert(), names | values)
    checksums.sum_up(session.connection, _KUBECONFIGS, *_of(group))
    return True


def remove_unused(session: database.Session) -> None:
    """Forget those of nodes that have no group left but deleted ones."""
    kept = session.connection.execute(sa.select(*_KEY)).all()
    if not kept:
        return
    used = groups_table.list_nodes(session)
    for node in kept:
        if tuple(node) not in used:
            session.connection.execute(_KUBECONFIGS.delete().where(*_at(*node)))


def _at(tenant_id: str, cluster_id: str, node_name: str) -> list[sa.ColumnElement[bool]]:
    values = tenant_id, cluster_id, node_name
    return [column == value for column, value in zip(_KEY, values, strict=True)]


def _of(group: groups.Group) -> list[sa.ColumnElement[bool]]:
    return _at(group.tenant_id, group.cluster_id, group.node_name)


def _owner(group: groups.Group) -> str:
    return f"{group.tenant_id}/{group.cluster_id}/{group.node_name}"
