"""An API server in memory: the double of kube/client.py for reflectors and recorders, and its failures.

tests/integration/test_kube_contract.py runs the same tests on it and on the real one.
"""

import asyncio
import copy
import json
import uuid

import msgspec

from kci.kube import client as clients
from kci.kube import errors


class FakeApi:
    def __init__(self):
        self.version = 10
        self.lists = 0
        # (plural, field selector) of the watches that are open.
        self.watching = []
        # The limits that watches were begun with; the next ones are silent until they are given up.
        self.watch_timeouts_s = []
        self.silent_watches = 0
        # Raised by the next reading and the next writing calls, in order.
        self.failures = []
        self.write_failures = []
        self._objects = {}
        self._history = []
        self._oldest = 0
        self._lines = 0
        self._news = asyncio.Event()

    # ---- what a client can do -------------------------------------------------------------------

    async def get(self, resource, name, *, namespace=""):
        self._fail(self.failures)
        try:
            return self._decode(resource, self._find(resource, namespace, name))
        except msgspec.ValidationError as error:
            raise errors.UnreachableError(f"cannot get {name}: it is not as expected") from error

    async def list_all(
        self, resource, *, namespace="", field_selector="", label_selector="", resource_version=""
    ):
        self.lists += 1
        self._fail(self.failures)
        events = [
            self._event(resource, "ADDED", item)
            for (plural, where, _), item in sorted(self._objects.items())
            if plural == resource.plural and namespace in {"", where} and _is_selected(item, field_selector)
        ]
        return clients.Listing(
            tuple(event.object for event in events if isinstance(event, clients.WatchEvent)),
            str(self.version),
            tuple(event.metadata for event in events if isinstance(event, clients.Unreadable)),
        )

    async def watch(
        self,
        resource,
        *,
        namespace="",
        field_selector="",
        label_selector="",
        resource_version,
        timeout_s=300,
    ):
        self._fail(self.failures)
        self.watch_timeouts_s.append(timeout_s)
        seen, line = int(resource_version), self._lines
        if seen < self._oldest:
            raise errors.GoneError("cannot watch: too old resource version", code=410, reason="Expired")
        if self.silent_watches:
            self.silent_watches -= 1
            raise errors.SilentError("cannot watch: the server was silent for too long")
        self.watching.append((resource.plural, field_selector))
        try:
            async for event in self._events(resource, namespace, field_selector, seen, line):
                yield event
        finally:
            self.watching.remove((resource.plural, field_selector))

    async def _events(self, resource, namespace, field_selector, seen, line):
        while True:
            for version, plural, kind, item in [entry for entry in self._history if entry[0] > seen]:
                seen = version
                if kind == "BOOKMARK":
                    yield clients.Bookmark(str(version))
                elif (
                    plural == resource.plural
                    and namespace in {"", item["metadata"].get("namespace", "")}
                    and _is_selected(item, field_selector)
                ):
                    yield self._event(resource, kind, item)
            await self._news.wait()
            if line != self._lines:
                raise errors.UnreachableError("cannot watch: the line was cut")

    async def create(self, resource, body, *, namespace=""):
        self._fail(self.write_failures)
        name = body["metadata"]["name"]
        if (resource.plural, namespace, name) in self._objects:
            raise errors.AlreadyExistsError(f"cannot create {name}: it exists", code=409)
        item = copy.deepcopy(body)
        item["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": namespace}
        return self._store(resource, item, "ADDED")

    async def patch(self, resource, name, patch, *, namespace=""):
        self._fail(self.write_failures)
        item = copy.deepcopy(self._find(resource, namespace, name))
        meta = patch.get("metadata", {})
        self._expect(item, meta.get("uid", ""))
        if (
            meta.get("resourceVersion", item["metadata"]["resourceVersion"])
            != item["metadata"]["resourceVersion"]
        ):
            raise errors.ConflictError("cannot change it: it was changed since", code=409)
        return self._store(resource, _merged(item, patch), "MODIFIED")

    async def delete(self, resource, name, *, namespace="", uid="", grace_period_s=None):
        self._fail(self.write_failures)
        item = copy.deepcopy(self._find(resource, namespace, name))
        self._expect(item, uid)
        self._put(resource, item, "DELETED")
        del self._objects[resource.plural, namespace, name]

    # ---- what happens to a server -----------------------------------------------------------------

    def cut(self):
        """Every watch breaks; what happens from here on is missed until somebody watches again."""
        self._lines += 1
        self._tell()

    def forget(self):
        """The history up to now is compacted, and watches break."""
        self._oldest = self.version
        self._history.clear()
        self.cut()

    def bookmark(self):
        self.version += 1
        self._history.append((self.version, "", "BOOKMARK", None))
        self._tell()

    def change(self, resource, name, *, namespace="", **fields):
        """Somebody writes fields of an object, perhaps such as nobody can read."""
        self._put(resource, copy.deepcopy(self._find(resource, namespace, name)) | fields, "MODIFIED")

    def _store(self, resource, item, kind):
        self._put(resource, item, kind)
        return self._decode(resource, item)

    def _put(self, resource, item, kind):
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        meta = item["metadata"]
        self._objects[resource.plural, meta.get("namespace", ""), meta["name"]] = item
        self._history.append((self.version, resource.plural, kind, copy.deepcopy(item)))
        self._tell()

    def _find(self, resource, namespace, name):
        try:
            return self._objects[resource.plural, namespace, name]
        except KeyError:
            raise errors.NotFoundError(f"cannot get {name}: not found", code=404) from None

    def _expect(self, item, uid):
        if uid and uid != item["metadata"]["uid"]:
            raise errors.ConflictError("cannot change it: the UID is another", code=409)

    def _decode(self, resource, item):
        return resource.decoder.decode(json.dumps(item))

    def _event(self, resource, kind, item):
        try:
            return clients.WatchEvent(clients.EventKind(kind), self._decode(resource, item))
        except msgspec.ValidationError:
            meta = resource.decoder.decode(json.dumps({"metadata": item["metadata"]})).metadata
            return clients.Unreadable(clients.EventKind(kind), meta)

    def _fail(self, failures):
        if failures:
            raise failures.pop(0)

    def _tell(self):
        self._news.set()
        self._news = asyncio.Event()


def _is_selected(item, field_selector):
    """Of field selectors an object's name and a Service's address are looked at."""
    field, _, value = field_selector.partition("=")
    if field == "spec.clusterIP":
        return item["spec"].get("clusterIP", "") == value
    return field != "metadata.name" or item["metadata"]["name"] == value


def _merged(target, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result
