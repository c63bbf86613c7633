"""The kubelet API over real TLS, in front of doubles, as its tests use it."""

import contextlib
import dataclasses

import aiohttp
from fakes import kubelet_peers, vnode_world

from kci.kit import clock
from kci.vnode import auth, kubelet_tls, server
from kci.vnode.streaming import handlers
from kci.vnode.usage import handlers as usage_handlers
from kci.vnode.usage import keeper


@dataclasses.dataclass
class Api:
    url: str
    reviewer: kubelet_peers.Reviewer
    streams: kubelet_peers.Streams
    pods: kubelet_peers.Pods
    certificates: kubelet_peers.Authority
    tls: kubelet_tls.Tls
    usage: kubelet_peers.Usage

    def context(self, user=None, group=""):
        return self.certificates.client_context(self.certificates.issue(user, group) if user else None)

    def session(self, *, user=None, group="", token=None):
        """With a time limit: an upgraded connection that nobody uses is no test's aim."""
        return aiohttp.ClientSession(
            self.url,
            timeout=aiohttp.ClientTimeout(total=60),
            connector=aiohttp.TCPConnector(ssl=self.context(user, group)),
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )

    def admin(self):
        return self.session(user="admin")


@contextlib.asynccontextmanager
async def running(authority, *, reviewer=None, tls=None, silence_s=30.0, **settings):
    certificate, key = authority.issue("vn", "system:nodes", server_names=("127.0.0.1",), client=False)
    reviewer, streams = reviewer or kubelet_peers.Reviewer(), kubelet_peers.Streams()
    usage, wall = kubelet_peers.Usage(), clock.SystemClock()
    pods = kubelet_peers.Pods({"u": vnode_world.pod("u")}, {"u": kubelet_peers.instance("u")})
    if tls is None:
        tls = kubelet_tls.Tls()
        kubelet_tls.load_client_ca(tls, authority.ca_file)
        kubelet_tls.load_certificate(tls, certificate, key)
    serving = server.Server(
        server.ServerSettings(
            address="127.0.0.1",
            port=0,
            silence_s=silence_s,
            streams=handlers.StreamSettings(**settings),
        ),
        tls=tls,
        gate=auth.Gate(reviewer, node_name="vn"),
        streams=streams,
        pods=pods,
        usage=usage_handlers.Handlers(
            keeper.UsageKeeper(usage, pods=lambda: pods.all(), clock=wall, kept_s=0.0),  # noqa: PLW0108  (tests replace it)
            node_name="vn",
        ),
    )
    async with serving.running() as port:
        yield Api(f"https://127.0.0.1:{port}", reviewer, streams, pods, authority, tls, usage)
