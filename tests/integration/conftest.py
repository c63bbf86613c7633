"""Fixtures that the integration tests share."""

from apiserver_fixture import admin, api_server, namespace
from containerd_fixture import containerd
from vnode_fixture import line

__all__ = ["admin", "api_server", "containerd", "line", "namespace"]
