"""Pages of a listing that is read while groups come and go."""

import pytest

from kci.client import pages
from kci.contract import groups

LIMIT = 100


def page(names, *, marker, total):
    return groups.ContainerGroups(
        marker=marker,
        total_count=total,
        container_groups=tuple(groups.ContainerGroup(container_group_id=name) for name in names),
    )


def serve(there, start):
    """As our service does: in the order of creation, from the start-th on."""
    listed = there[start : start + LIMIT]
    after = start + len(listed)
    return page(listed, marker=after if listed and after < len(there) else 0, total=len(there))


def read(there, change, *, are_ordered=True):
    """One listing, with `change` between its pages."""
    listing = pages.Pages(are_ordered=are_ordered)
    while not listing.is_last:
        listing.add(serve(there, listing.marker))
        change()
    return listing


@pytest.mark.requirement("R06")
def test_what_is_there_all_the_while_is_never_missed_whatever_comes_and_goes(runs):
    whole = 0
    for run in range(runs.scale(quick=200, faults=2000, release=20_000)):
        chance = runs.random(run)
        there = [f"g{number}" for number in range(chance.randrange(400))]
        ever, steady = set(there), set(there)
        most = chance.choice([1, 10, 40])

        def change(there=there, ever=ever, steady=steady, chance=chance, most=most):
            for _ in range(chance.randrange(most)):
                if there and chance.random() < 0.5:
                    gone = there.pop(chance.choice([0, chance.randrange(len(there))]))
                    steady.discard(gone)
                else:
                    there.append(f"g{len(ever)}")
                    ever.add(there[-1])

        listing = read(there, change)
        if not listing.problem:
            whole += 1
            found = {group.container_group_id for group in listing.listed}
            assert steady <= found <= ever
    # Else it would prove little.
    assert whole >= runs.count / 2


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 180, 181, 350])
@pytest.mark.parametrize("are_ordered", [True, False])
def test_a_list_that_stands_still_is_read_whole(count, are_ordered):
    there = [f"g{number}" for number in range(count)]
    listing = read(there, lambda: None, are_ordered=are_ordered)
    assert (listing.problem, [group.container_group_id for group in listing.listed]) == ("", there)


def test_as_many_groups_coming_and_going_as_a_busy_service_has_give_a_list_at_once():
    there = [f"g{number}" for number in range(350)]

    def change():
        del there[:5]
        there.extend(f"new{len(there)}-{there[0]}-{number}" for number in range(7))

    assert not read(there, change).problem
    assert read(there, change, are_ordered=False).problem


@pytest.mark.requirement("R06")
@pytest.mark.parametrize(
    "second",
    [
        # What went between the pages may have taken others over the edge; a page that is short, or twice the
        # same group, or none of it; a marker that is no place; a page that is no longer than the overlap.
        page([f"g{number}" for number in range(101, 150)], marker=0, total=130),
        page(["g90"], marker=0, total=120),
        page(["g90", "g90"], marker=0, total=82),
        page([], marker=0, total=80),
        page([f"g{number}" for number in range(80, 180)], marker=99, total=300),
        page([f"g{number}" for number in range(90, 95)], marker=85, total=300),
    ],
)
def test_pages_of_an_ordered_list_that_do_not_fit_are_no_list(second):
    listing = pages.Pages(are_ordered=True)
    listing.add(serve([f"g{number}" for number in range(120)], 0))
    assert (listing.is_last, listing.marker) == (False, 80)
    listing.add(second)
    assert listing.is_last
    assert listing.problem
