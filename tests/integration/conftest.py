"""Fixtures that the integration tests share."""

from apiserver_fixture import admin, api_server, namespace
from containerd_fixture import containerd
from keys_fixture import applied
from vnode_fixture import line

__all__ = ["admin", "api_server", "applied", "containerd", "line", "namespace"]
