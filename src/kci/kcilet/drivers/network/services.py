"""The way of pods to Services: the table `inet <bridge>-services` of the machine. Blocking, in the thread of
the wiring.

The kernel alone holds what there is, so a kcilet that was restarted finds it and changes nothing until it
knows better; from then on it knows what it put there. Each change is one transaction: at no moment does a
running pod lack rules, and after one that failed all is as before.
The rules are the machine's: no pod can change them, and all runtimes obey them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping

from kci.kcilet import ports
from kci.kcilet.drivers.network import cni, conntrack, service_rules, tables
from kci.kcilet.plan import services as plan
from kci.kit import nft
from kci.kube import models
from kci.link import types as link


class ServicesError(Exception):
    """nftables or the kernel refused; the text says what."""


@dataclasses.dataclass
class _Outlook:
    """What the kernel has of an outlook."""

    kept: service_rules.Kept
    # None if only its names are known, from before our start.
    table: dict[ports.ServiceAddress, ports.Backend] | None = None
    # Whether somebody keeps it up to date.
    is_held: bool = False


class Services:
    """Made and used in one thread."""

    def __init__(self, bridge: str, reachable: Iterable[ports.Reachable] = ()) -> None:
        self.table = f"{bridge}-services"
        self._rules = service_rules.Rules(self.table)
        self._reachable = tuple(reachable)
        self._nft: nft.Nft | None = None
        self._clearing = conntrack.Clearing()
        self._tables: tables.Tables | None = None
        # By owner.
        self._members: dict[str, service_rules.Member] = {}
        self._outlooks: dict[str, _Outlook] = {}
        # What each was brought last, also if the kernel has lost it.
        self._brought: dict[str, dict[ports.ServiceAddress, ports.Backend]] = {}
        # Whether our table is there, with what belongs to no outlook as we have it: an earlier life's may be
        # another.
        self._has_base = False
        self._find()
        # Outlooks of an earlier life, until it was looked whether anybody has them.
        self._unswept = frozenset(self._outlooks)

    def close(self) -> None:
        if self._nft is not None:
            self._nft.close()
        self._clearing.close()
        if self._tables is not None:
            self._tables.close()

    def admit(self, pod_uid: models.PodUid, interface: link.Interface, outlook: str) -> None:
        """Let a pod reach these Services and no others, or none without an outlook. Nobody else who had its
        address has it any more.
        """
        try:
            self._admit(pod_uid, interface, outlook)
        except ServicesError:
            # By now it is known what there really is.
            self._admit(pod_uid, interface, outlook)

    def dismiss(self, pod_uid: models.PodUid) -> None:
        """Nothing happens if it has no way to Services."""
        found = self._members.get(_owner(pod_uid))
        if found is None:
            return
        try:
            self._dismiss([found])
        except ServicesError:
            found = self._members.get(found.owner)
            self._dismiss([found] if found is not None else [])

    def change(
        self,
        outlook: str,
        change: ports.ServiceChange,
        members: Mapping[models.PodUid, link.Interface],
    ) -> None:
        name = service_rules.outlook_name(outlook)
        if not self._is_there(name):
            # As after `nft flush ruleset`.
            self._look_again()
        known = self._outlooks.get(name) or _Outlook(_opened(name))
        if known.table is None and not change.is_whole:
            if name not in self._brought:
                raise ServicesError("nobody knows what is there: a whole table is needed")
            change = ports.ServiceChange(plan.apply(change, self._brought[name]), is_whole=True)
        before = known.table or {}
        texts = [self._rules.open(name)] if change.is_whole else []
        self._run_on_base("\n".join([*texts, self._rules.change(name, before, change, known.kept)]))
        after = plan.apply(change, before)
        former = service_rules.NOTHING_KEPT if change.is_whole else known.kept
        kept = service_rules.kept_with(name, after, former)
        self._outlooks[name] = _Outlook(kept, after, is_held=True)
        self._brought[name] = after
        for pod_uid, interface in members.items():
            self.admit(pod_uid, interface, outlook)
        sources = frozenset(one.address for one in self._members.values() if one.outlook == name)
        self._clearing.note(name, conntrack.stale(change, before), conntrack.Seen(after, sources))
        self._sweep()

    def wait_cleared(self, timeout_s: float) -> bool:
        """Whether flows to endpoints that are gone have been forgotten by then. In any thread."""
        return self._clearing.wait_idle(timeout_s)

    def forget(self, outlook: str) -> None:
        """Nobody keeps these Services up to date any more."""
        name = service_rules.outlook_name(outlook)
        known = self._outlooks.get(name)
        _ = self._brought.pop(name, None)
        if known is not None:
            known.is_held = False
            self._remove_if_unused({name})

    def is_whole(self) -> bool:
        """Whether the kernel has what we last put there. Somebody may have taken it away."""
        return all(self._is_there(name) for name in self._outlooks)

    # ---- parts ------------------------------------------------------------------------------------

    def _find(self) -> None:
        """What an earlier life of ours left in the kernel. Without libnftables there is nothing."""
        try:
            if self._nft is None:
                self._nft = nft.Nft()
            tables = self._nft.read("list tables inet")
        except nft.NftError:
            return
        if self.table not in {one["table"]["name"] for one in tables if "table" in one}:
            return
        try:
            listed = self._nft.read(f"list table inet {self.table}", terse=True)
            members = self._nft.read(f"list map inet {self.table} {service_rules.MEMBERS}")
        except nft.NftError:
            return
        self._outlooks = {name: _Outlook(kept) for name, kept in service_rules.outlooks_of(listed).items()}
        self._members = {one.owner: one for one in service_rules.members_of(members)}

    def _is_there(self, name: str) -> bool:
        """What this outlook needs, as far as there was any before."""
        known = {name: self._outlooks[name].kept} if name in self._outlooks else {}
        if not known and not self._has_base:
            return True
        try:
            if self._tables is None:
                self._tables = tables.Tables()
            return self._tables.have_rules(self.table, service_rules.rule_counts(known))
        except OSError:
            return False

    def _look_again(self) -> None:
        """Somebody else has meddled, or we were wrong: what there is, is what the kernel says."""
        held = {name for name, one in self._outlooks.items() if one.is_held}
        self._has_base, self._outlooks, self._members = False, {}, {}
        self._find()
        for name in held & self._outlooks.keys():
            self._outlooks[name].is_held = True

    def _admit(self, pod_uid: models.PodUid, interface: link.Interface, outlook: str) -> None:
        owner, address = _owner(pod_uid), interface.address
        name = service_rules.outlook_name(outlook)
        member = service_rules.Member(owner, address, name)
        if outlook and self._members.get(owner) == member and name in self._outlooks:
            return
        former = [one for one in self._members.values() if one.owner == owner or one.address == address]
        if not outlook:
            self._dismiss(former)
            return
        texts = [] if name in self._outlooks else [self._rules.open(name)]
        self._run_on_base("\n".join([*texts, self._rules.admit(member, interface.gateway, former)]))
        _ = self._outlooks.setdefault(name, _Outlook(_opened(name)))
        for one in former:
            del self._members[one.owner]
        self._members[owner] = member
        self._remove_if_unused({one.outlook for one in former} - {name})

    def _run_on_base(self, text: str) -> None:
        """In one transaction with what belongs to no outlook, if that is not there as we have it."""
        if not self._has_base:
            text = f"{self._rules.base(self._reachable)}\n{text}"
        self._run(text)
        self._has_base = True

    def _run(self, text: str) -> None:
        try:
            if self._nft is None:
                self._nft = nft.Nft()
            if text.strip():
                _ = self._nft.run(text)
        except nft.NftError as error:
            self._look_again()
            raise ServicesError(str(error)) from error

    def _dismiss(self, members: list[service_rules.Member]) -> None:
        self._run(self._rules.dismiss(members))
        for one in members:
            # A failure has shown what there is, and it may not be there.
            _ = self._members.pop(one.owner, None)
        self._remove_if_unused({one.outlook for one in members})

    def _remove_if_unused(self, names: set[str]) -> None:
        used = {one.outlook for one in self._members.values()}
        for name in names - used:
            known = self._outlooks.get(name)
            if known is not None and not known.is_held:
                self._run(self._rules.forget(known.kept))
                del self._outlooks[name]
        if names and not self._outlooks and not self._members:
            self._run(self._rules.remove())
            self._has_base = False

    def _sweep(self) -> None:
        """Once a life: one that fails would fail each change."""
        unswept, self._unswept = self._unswept, frozenset()
        if unswept:
            self._remove_if_unused(set(unswept))


@functools.lru_cache(maxsize=4096)
def _owner(pod_uid: models.PodUid) -> str:
    return cni.to_link_name(pod_uid)


def _opened(name: str) -> service_rules.Kept:
    return service_rules.kept_with(name, {})
