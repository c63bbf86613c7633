"""The pure part of the reflector: whatever becomes of the events, the copy ends equal to the server."""

import hypothesis
import msgspec
import pytest
import requirements
from hypothesis import strategies

from kci.kube import client as clients
from kci.kube import models, reflector

ADDED, MODIFIED, DELETED = clients.EventKind


def thing(uid, version, name="a"):
    return models.ConfigMap(
        metadata=models.ObjectMeta(name=name, namespace="ns", uid=uid, resource_version=str(version))
    )


def told(changes):
    return [(change.kind.name, change.object.metadata.uid, change.final_state_unknown) for change in changes]


def synced(*things, version=10):
    store = reflector.Store()
    store.replace(clients.Listing(things, str(version)))
    return store


def test_a_list_tells_the_whole_difference_deletions_first():
    store = synced(thing("1", 1, "a"), thing("2", 2, "b"), thing("3", 3, "c"))
    listing = clients.Listing((thing("2", 2, "b"), thing("3", 13, "c"), thing("4", 14, "a")), "20")
    assert told(store.replace(listing)) == [
        ("DELETED", "1", True),
        ("MODIFIED", "3", False),
        ("ADDED", "4", False),
    ]
    assert store.resource_version == "20"


def test_a_name_made_anew_ends_the_old_object_first_when_its_deletion_was_lost():
    store = synced(thing("old", 1))
    assert told(store.apply(clients.WatchEvent(ADDED, thing("new", 11)))) == [
        ("DELETED", "old", True),
        ("ADDED", "new", False),
    ]
    late = [clients.WatchEvent(MODIFIED, thing("old", 9)), clients.WatchEvent(DELETED, thing("old", 10))]
    assert [store.apply(event) for event in late] == [[], []]
    assert list(store.objects) == ["new"]


def test_repeated_late_and_reordered_events_change_nothing():
    store = synced(thing("1", 5))
    assert store.apply(clients.WatchEvent(MODIFIED, thing("1", 5))) == []
    assert told(store.apply(clients.WatchEvent(MODIFIED, thing("1", 12)))) == [("MODIFIED", "1", False)]
    assert store.apply(clients.WatchEvent(MODIFIED, thing("1", 11))) == []
    assert told(store.apply(clients.WatchEvent(DELETED, thing("1", 13)))) == [("DELETED", "1", False)]
    assert store.apply(clients.WatchEvent(MODIFIED, thing("1", 12))) == []
    assert store.objects == {}


def test_what_is_known_to_be_gone_does_not_come_back():
    listed = synced(version=20)
    assert listed.apply(clients.WatchEvent(ADDED, thing("1", 15))) == [], "older than the list"
    replaced = synced(thing("old", 1))
    replaced.apply(clients.WatchEvent(ADDED, thing("new", 13)))
    replaced.apply(clients.WatchEvent(DELETED, thing("new", 14)))
    assert replaced.apply(clients.WatchEvent(MODIFIED, thing("old", 12))) == [], "its name was made anew"
    assert listed.objects == replaced.objects == {}


def test_a_bookmark_moves_the_version_forward_only():
    store = synced(version=10)
    assert store.apply(clients.Bookmark("15")) == []
    assert store.apply(clients.Bookmark("12")) == []
    assert store.resource_version == "15"


def unreadable(kind, uid, version, name="a"):
    return clients.Unreadable(kind, thing(uid, version, name).metadata)


def test_what_cannot_be_read_is_there_and_what_was_known_of_it_stays():
    store = synced(thing("1", 1, "a"), thing("2", 2, "b"))
    bad = thing("1", 12, "a").metadata
    listing = clients.Listing((thing("3", 3, "c"),), "20", (bad, thing("9", 9, "x").metadata))
    assert told(store.replace(listing)) == [("DELETED", "2", True), ("ADDED", "3", False)]
    assert store.objects == {"1": thing("1", 1, "a"), "3": thing("3", 3, "c")}
    assert store.apply(unreadable(MODIFIED, "3", 21, "c")) == []
    assert store.resource_version == "21"
    assert set(store.objects) == {"1", "3"}
    # Somebody mends them.
    assert told(store.apply(clients.WatchEvent(MODIFIED, thing("9", 22, "x")))) == [("ADDED", "9", False)]
    assert told(store.apply(clients.WatchEvent(MODIFIED, thing("3", 23, "c")))) == [("MODIFIED", "3", False)]


def test_the_end_of_what_cannot_be_read_is_told_with_what_was_known_of_it():
    store = synced(thing("1", 1, "a"))
    assert store.apply(unreadable(ADDED, "9", 11, "x")) == []
    assert store.apply(unreadable(DELETED, "9", 12, "x")) == [], "nobody was told of it"
    assert told(store.apply(unreadable(DELETED, "1", 13))) == [("DELETED", "1", True)]
    assert store.apply(clients.WatchEvent(MODIFIED, thing("1", 12))) == []
    assert store.objects == {}


def test_a_name_made_anew_by_what_cannot_be_read_ends_the_old_object():
    store = synced(thing("old", 1))
    assert told(store.apply(unreadable(ADDED, "new", 11))) == [("DELETED", "old", True)]
    assert store.objects == {}


EXAMPLES = requirements.scaled(quick=500, faults=5000, release=5000)
NAMES = ("a", "b", "c")
steps = strategies.lists(
    strategies.one_of(
        strategies.tuples(
            strategies.sampled_from(["put", "recreate", "delete"]), strategies.sampled_from(NAMES)
        ),
        strategies.tuples(strategies.sampled_from(["bookmark", "relist", "resume"]), strategies.just("")),
    ),
    max_size=40,
)


class Server:
    """What really is, and everything that happened."""

    def __init__(self):
        self.version, self.uids, self.objects, self.events = 10, 0, {}, []

    def do(self, step, name):
        if step in {"delete", "recreate"} and name in self.objects:
            self._happen(DELETED, self.objects.pop(name))
        if step == "recreate" or (step == "put" and name not in self.objects):
            self.uids += 1
            self.objects[name] = self._happen(ADDED, thing(f"u{self.uids}", 0, name))
        elif step == "put":
            self.objects[name] = self._happen(MODIFIED, self.objects[name])

    def _happen(self, kind, item):
        self.version += 1
        meta = msgspec.structs.replace(item.metadata, resource_version=str(self.version))
        item = msgspec.structs.replace(item, metadata=meta)
        self.events.append((self.version, clients.WatchEvent(kind, item)))
        return item

    def listing(self):
        return clients.Listing(tuple(self.objects.values()), str(self.version))


@pytest.mark.requirement("R17", runs=EXAMPLES)
@hypothesis.settings(max_examples=EXAMPLES, deadline=None)
@hypothesis.given(steps, strategies.randoms(use_true_random=False))
def test_a_watch_that_is_cut_and_resumed_needs_no_list(script, chance):
    """In order, as a server sends them, with some sent twice: the watch alone keeps the copy equal."""
    server, store = Server(), reflector.Store()
    store.replace(server.listing())
    sent = 0
    for step, name in [*script, ("resume", "")]:
        server.do(step, name)
        if step == "resume" or chance.random() < 0.2:
            since = int(store.resource_version) - chance.choice([0, 0, 2])
            sent = sum(version <= since for version, _ in server.events)
        while sent < len(server.events) and (step == "resume" or chance.random() < 0.7):
            store.apply(server.events[sent][1])
            sent += 1
    assert store.objects == {item.metadata.uid: item for item in server.objects.values()}


@pytest.mark.requirement("R17", runs=EXAMPLES)
@hypothesis.settings(max_examples=EXAMPLES, deadline=None)
@hypothesis.given(steps, strategies.randoms(use_true_random=False))
def test_any_stream_ends_equal_to_the_server(script, chance):
    """Events are lost with the line, come twice, come late and in another order; 410 means a list."""
    server, store, alive, waiting = Server(), reflector.Store(), {}, []

    def take(changes):
        for change in changes:
            uid = change.object.metadata.uid
            if change.kind is reflector.ChangeKind.ADDED:
                assert uid not in alive
            else:
                assert uid in alive
            if change.kind is reflector.ChangeKind.DELETED:
                del alive[uid]
            else:
                assert change.object.metadata.name not in {
                    item.metadata.name for other, item in alive.items() if other != uid
                }, "two objects never hold one name"
                alive[uid] = change.object

    take(store.replace(server.listing()))
    for step, name in script:
        if step == "bookmark":
            # The server sends one only after everything before it.
            if not waiting:
                take(store.apply(clients.Bookmark(str(server.version))))
        elif step == "relist":
            # 410: what was on the way is lost, or comes after the list.
            take(store.replace(server.listing()))
            waiting = [event for event in waiting if chance.random() < 0.5]
        elif step == "resume":
            # The line was cut and the watch goes on after the last version seen: some is sent again.
            since = int(store.resource_version) - chance.choice([0, 0, 1, 3])
            waiting = [event for version, event in server.events if version > since]
        else:
            before = len(server.events)
            server.do(step, name)
            waiting += [event for _, event in server.events[before:]]
            waiting += [event for event in waiting if chance.random() < 0.1]
            if chance.random() < 0.2:
                chance.shuffle(waiting)
            while waiting and chance.random() < 0.6:
                take(store.apply(waiting.pop(0)))
    # Whatever is still on the way arrives after the last list, in any order.
    take(store.replace(server.listing()))
    chance.shuffle(waiting)
    for event in waiting:
        take(store.apply(event))
    truth = {item.metadata.uid: item for item in server.objects.values()}
    assert store.objects == truth == alive
