"""Puts the pages of one listing together and tells whether it is whole. Pure; the calls are client.py's.

Pages are read one after another while groups come and go. Where nothing is known of their order, a listing is
whole only if all its pages announce the same number and so many groups came. Of a service that lists in the
order of creation (capabilities.ORDERED_LIST) more is known: a group keeps its place among the others, so two
pages that share a group have nothing between them. Each page is then read from a little before the end of
the one before it, and what is whole has every group that was there all the while, whatever came and went.
"""

from __future__ import annotations

from collections.abc import Mapping

from kci.contract import groups, ids

# So many groups may go between two pages, and they still share one.
OVERLAP = 20


class Pages:
    """Of one listing: `add` each page, and read the next one from `marker`, until `is_last`."""

    def __init__(self, *, are_ordered: bool) -> None:
        self.are_ordered = are_ordered
        self.marker = 0
        self.is_last = False
        # Why it is not whole; empty if it is.
        self.problem = ""
        self._found: dict[ids.GroupId, groups.ContainerGroup] = {}
        self._total: int | None = None
        self._page_before: frozenset[ids.GroupId] = frozenset()

    @property
    def listed(self) -> list[groups.ContainerGroup]:
        return list(self._found.values())

    def add(self, page: groups.ContainerGroups) -> None:
        """The page that starts at `marker`."""
        listed = {group.container_group_id: group for group in page.container_groups}
        self._found.update(listed)
        if self.are_ordered:
            self._add_ordered(page, listed)
        else:
            self._add_counted(page)

    def _add_counted(self, page: groups.ContainerGroups) -> None:
        self._total = page.total_count if self._total is None else self._total
        fits = page.total_count == self._total
        if fits and page.marker > self.marker:
            self.marker = page.marker
            return
        self.is_last = True
        if not fits or page.marker or len(self._found) != page.total_count:
            self.problem = f"{len(self._found)} groups came where {page.total_count} were announced"

    def _add_ordered(
        self, page: groups.ContainerGroups, listed: Mapping[ids.GroupId, groups.ContainerGroup]
    ) -> None:
        end = self.marker + len(page.container_groups)
        self.is_last = page.marker == 0
        if self.marker and not listed.keys() & self._page_before:
            self.problem = "two pages share no group"
        elif len(listed) != len(page.container_groups) or end != (page.marker or page.total_count):
            self.problem = f"groups {self.marker} to {end} came, and {page.total_count} were announced"
        elif not self.is_last and len(listed) <= OVERLAP:
            self.problem = f"a page has only {len(listed)} groups"
        self.is_last = self.is_last or bool(self.problem)
        self.marker = page.marker - OVERLAP
        self._page_before = frozenset(listed)
