"""The firewall in the kernel: one table of our own, changed by whole transactions. Blocking, in the thread of
the wiring.

The rules outlive the program. A program that was started anew knows nothing of them, so the first whole
firewall that it is given takes their place in one transaction; from then on only what differs is said.
"""

from __future__ import annotations

from kci.kcilet import ports
from kci.kcilet.drivers.network import rules, tables
from kci.kit import crashpoints, nft


class FirewallError(Exception):
    """The kernel did not take the rules; the text says what it says."""


class Firewall:
    """Made and used in one thread. Raises FirewallError."""

    def __init__(self, frame: rules.Frame) -> None:
        self._frame = frame
        try:
            self._nft = nft.Nft()
            self._tables = tables.Tables()
        except (nft.NftError, OSError) as error:
            raise FirewallError(str(error)) from error
        # What the kernel has of us; None if that is not known.
        self._known: rules.Ruleset | None = None

    def close(self) -> None:
        self._nft.close()
        self._tables.close()

    def ensure(self, firewall: ports.Firewall) -> bool:
        """Have this one. False if it is not whole and an earlier run's is there: that one stays."""
        wanted = rules.to_ruleset(firewall, self._frame)
        if self._known is None and not firewall.is_whole and self._is_there():
            return False
        if self._known is not None and self._is_there():
            commands = rules.changes(self._known, wanted, self._frame)
            try:
                self._run(commands)
            except FirewallError:
                # Somebody else changed our table: as a whole it can be put right.
                self._known = None
        else:
            self._known = None
        if self._known is None:
            self._run(rules.whole(wanted, self._frame))
        self._known = wanted
        return True

    def list_pods(self) -> frozenset[tuple[str, str]]:
        """Links and addresses of the pods that the kernel has rules for, whoever put them there."""
        try:
            return rules.pods_of(self._nft.read(f"list set inet {self._frame.table} pods"))
        except nft.NftError:
            return frozenset()

    def is_whole(self) -> bool:
        """Whether the kernel has all rules of what was set last. Somebody may have changed others."""
        return self._known is None or self._is_there()

    def _is_there(self) -> bool:
        """With all its rules, as far as they are known."""
        try:
            return self._tables.have_rules(self._frame.table, rules.rule_counts(self._known, self._frame))
        except OSError:
            return False

    def _run(self, commands: str) -> None:
        if not commands:
            return
        crashpoints.reached("kcilet.firewall.before")
        try:
            _ = self._nft.run(commands)
        except nft.NftError as error:
            raise FirewallError(str(error)) from error
        crashpoints.reached("kcilet.firewall.after")
