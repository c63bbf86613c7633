"""The key pairs that change while the program runs: in a folder, or in objects of the cluster.

    the object changes ────────watch──┐
    the keys end soon ─────────a look─┼──► the newest that can be read ──► signs the next call
    KCI calls the keys expired ─a look┘

What cannot be read leaves the keys that are there in use until their end; after it calls fail, and are made
again by whoever made them, until there are new keys. Before their end, within the margin, keys are the last
resort: others are looked for first. A look is one read, however many calls wait for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import pathlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog

from kci.client import errors
from kci.contract import signing
from kci.kit import clock as clocks
from kci.kit import secret, tasks
from kci.kube import client as clients
from kci.kube import errors as kube_errors
from kci.kube import models, reflector, resources
from kci.provider import aksk

log = structlog.get_logger(__name__)

# How long calls wait for a look, and how long it is to the next that nobody has a new reason for.
LOOK_TIMEOUT_S = 3.0
LOOK_EVERY_S = 5.0
_MAX_FILE_BYTES = 64 * 1024
_MAX_READS = 5

# Told in a sentence what is wrong, whenever that changes.
OnTrouble = Callable[[str], None]


class Api(reflector.Api, Protocol):
    """What is needed of the cluster's client."""

    async def get(self, resource: resources.Resource[Any], name: str, *, namespace: str = "") -> Any: ...


@dataclasses.dataclass(frozen=True)
class Reference:
    """A ConfigMap or a Secret that holds a key pair."""

    resource: resources.Resource[Any]
    name: str
    namespace: str = "kube-system"

    def __str__(self) -> str:
        return f"{self.resource.kind} {self.namespace}/{self.name}"


class Place:
    """Where keys stand: the last that could be read there, and why there are no newer ones."""

    def __init__(self, name: str, cipher_key: secret.Secret, *, strict_end: bool) -> None:
        self.name = name
        self.keys: aksk.Keys | None = None
        # What is wrong with what stands there, and why it could not be looked at; empty if nothing is.
        self.wrong = ""
        self.unread = ""
        self._cipher_key = cipher_key
        self._strict_end = strict_end

    @property
    def trouble(self) -> str:
        return self.unread or self.wrong

    def take(self, fields: Mapping[str, str], now: datetime.datetime) -> None:
        """Raises AkskError, and keeps what was there."""
        # An end that nobody can read is passed over only where there is nothing else to sign with.
        strict_end = self._strict_end or self.keys is not None
        self.keys = aksk.read(fields, self._cipher_key, now=now, strict_end=strict_end)
        self.wrong = self.keys.warning


class Changing:
    """client.CredentialSource over places, of which the first counts that has good keys."""

    def __init__(
        self,
        places: Sequence[Place],
        *,
        clock: clocks.Clock,
        on_trouble: OnTrouble,
        remedy: str,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._places = places
        self._clock = clock
        self._on_trouble = on_trouble
        self._remedy = remedy
        self._look_every_s = look_every_s
        self._lock = asyncio.Lock()
        self._looks = 0
        self._next_look_s = 0.0
        self._told_key, self._told_trouble = "", ""

    async def get(self) -> signing.Credentials:
        keys = self._current()
        if keys is None or keys.ends_soon(self._clock.now()):
            await self._look(needed=False)
            keys = self._current()
        if keys is None:
            raise errors.MissingCredentialsError(
                f"cannot sign calls to KCI: {self._trouble()}; {self._remedy}"
            )
        return keys.credentials

    async def replace(self, refused: signing.Credentials) -> signing.Credentials:
        keys = self._current()
        if keys is None or keys.credentials == refused:
            await self._look(needed=True)
            keys = self._current()
        return keys.credentials if keys else refused

    async def look(self) -> Sequence[Place]:
        """All places as they are now, for who only wants to know."""
        await self._read()
        return self._places

    async def _read(self) -> None:
        """Look at all places; what goes wrong is noted at the place."""
        raise NotImplementedError

    def _current(self) -> aksk.Keys | None:
        return aksk.choose([place.keys for place in self._places if place.keys], self._clock.now())

    async def _look(self, *, needed: bool) -> None:
        looks = self._looks
        async with self._lock:
            # Who waited for another's look has what it found.
            if self._looks != looks or not (needed or _now_s() >= self._next_look_s):
                return
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    await self._read()
            except TimeoutError:
                for place in self._places:
                    place.unread = f"no answer within {LOOK_TIMEOUT_S:.0f} seconds"
            self._looks += 1
            self._next_look_s = _now_s() + self._look_every_s
        self._tell()

    def _tell(self) -> None:
        """Say what changed: which keys are used, and what is wrong."""
        if not all(place.keys or place.trouble for place in self._places):
            # One of them was not looked at yet, and may have what the others lack.
            return
        keys, trouble = self._current(), self._trouble()
        access_key = keys.credentials.access_key if keys else ""
        if keys is not None and access_key != self._told_key:
            log.info("credentials taken", access_key=access_key, end=clocks.to_rfc3339(keys.expires_at))
        if trouble and trouble != self._told_trouble:
            log.warning("credentials not as they should be", trouble=trouble, remedy=self._remedy)
            self._on_trouble(f"{trouble}; {self._remedy}")
        self._told_key, self._told_trouble = access_key, trouble

    def _trouble(self) -> str:
        """Why calls cannot be signed, or soon cannot; empty while all is well."""
        keys, now = self._current(), self._clock.now()
        if any(place.keys and not place.wrong and not place.keys.ends_soon(now) for place in self._places):
            return ""
        found = [f"{place.name}: {place.trouble}" for place in self._places if place.trouble]
        if found:
            return "; ".join(found)
        if keys is None:
            return f"the keys of {self._places[0].name} have ended"
        if keys.ends_soon(now):
            return f"the keys of {self._places[0].name} end at {clocks.to_rfc3339(keys.expires_at)}"
        return ""


class Folder(Changing):
    """A folder with a file for each field, or one file with all; read again for each call."""

    def __init__(
        self,
        path: pathlib.Path,
        *,
        cipher_key: secret.Secret,
        clock: clocks.Clock,
        on_trouble: OnTrouble = lambda _: None,
    ) -> None:
        self._place = Place(str(path), cipher_key, strict_end=True)
        self._path = path
        self._content: dict[str, secret.Secret] | None = None
        super().__init__(
            [self._place],
            clock=clock,
            on_trouble=on_trouble,
            remedy=f"put the files ak and sk into {path}, and securityToken, expired_at, cipher if needed",
        )

    async def get(self) -> signing.Credentials:
        await self._read()
        self._tell()
        return await super().get()

    async def _read(self) -> None:
        try:
            content = await tasks.in_thread(_read_files, self._path)
            self._place.unread = ""
            if content != self._content:
                self._content = content
                texts = {name: text.reveal() for name, text in content.items()}
                fields = aksk.read_text(texts[""]) if "" in texts else texts
                self._place.take(fields, self._clock.now())
        except OSError as error:
            self._place.unread = f"cannot read {error.filename or self._path}: {error.strerror}"
        except aksk.AkskError as error:
            self._place.wrong = str(error)


class Cluster(Changing):
    """ConfigMaps and Secrets that are watched; `run` follows them. The node's user must be allowed to get,
    list and watch each by its name.
    """

    def __init__(
        self,
        client: Api,
        references: Sequence[Reference],
        *,
        cipher_key: secret.Secret,
        clock: clocks.Clock,
        on_trouble: OnTrouble = lambda _: None,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._followed = [_Followed(client, one, cipher_key, clock, self._tell) for one in references]
        super().__init__(
            [followed.place for followed in self._followed],
            clock=clock,
            on_trouble=on_trouble,
            remedy=f"put the keys into {' or '.join(map(str, references))} as ak, sk, securityToken and"
            " expired_at, and let the node's user get, list and watch it",
            look_every_s=look_every_s,
        )

    async def run(self) -> None:
        """Until cancelled."""
        async with tasks.Tasks() as group:
            for followed in self._followed:
                group.run_forever(f"watch {followed.place.name}", followed.reflector.run())

    async def _read(self) -> None:
        await tasks.wait_all([followed.look() for followed in self._followed], name="look at keys")


class _Followed:
    """One object; a reflector.Api for the reflector that follows it, as only a list tells of an absence."""

    def __init__(
        self,
        client: Api,
        reference: Reference,
        cipher_key: secret.Secret,
        clock: clocks.Clock,
        on_news: Callable[[], None],
    ) -> None:
        self.place = Place(str(reference), cipher_key, strict_end=False)
        self._client = client
        self._reference = reference
        self._clock = clock
        self._on_news = on_news
        self._version = ""
        self.reflector = reflector.Reflector[models.ConfigMap | models.Secret](
            self,
            reference.resource,
            namespace=reference.namespace,
            field_selector=f"metadata.name={reference.name}",
            on_change=self._on_change,
        )

    async def look(self) -> None:
        one = self._reference
        try:
            self._note(await self._client.get(one.resource, one.name, namespace=one.namespace))
        except kube_errors.NotFoundError:
            self._note(None)
        except kube_errors.KubeError as error:
            self.place.unread = str(error)

    def _on_change(self, change: reflector.Change[models.ConfigMap | models.Secret]) -> None:
        self._note(None if change.kind is reflector.ChangeKind.DELETED else change.object)
        self._on_news()

    def _note(self, seen: models.ConfigMap | models.Secret | None) -> None:
        self.place.unread = ""
        if seen is None:
            self.place.wrong, self._version = "there is none", ""
            return
        version = seen.metadata.resource_version
        # A look is ahead of the watch.
        if self._version and not reflector.is_later(version, than=self._version):
            return
        self._version = version
        try:
            data = aksk.decode_secret(seen.data) if isinstance(seen, models.Secret) else seen.data
            self.place.take(data, self._clock.now())
        except aksk.AkskError as error:
            self.place.wrong = str(error)

    # ---- reflector.Api --------------------------------------------------------------------------

    async def list_all(self, resource: resources.Resource[Any], **selection: Any) -> clients.Listing[Any]:
        try:
            listing = await self._client.list_all(resource, **selection)
            listing.require_readable()
        except kube_errors.KubeError as error:
            self.place.unread = str(error)
            self._on_news()
            raise
        if not listing.items:
            self._note(None)
            self._on_news()
        return listing

    def watch(
        self, resource: resources.Resource[Any], **selection: Any
    ) -> AsyncGenerator[clients.Watched[Any], None]:
        return self._client.watch(resource, **selection)


def _read_files(path: pathlib.Path) -> dict[str, secret.Secret]:
    """Twice the same, so that nothing of before and after a change is mixed."""
    content = _read_once(path)
    for _ in range(_MAX_READS):
        again = _read_once(path)
        if again == content:
            break
        content = again
    return content


def _read_once(path: pathlib.Path) -> dict[str, secret.Secret]:
    if path.is_file():
        return {"": _read_text(path)}
    found = {}
    # A kubelet changes all files of a mounted object at once, by this link.
    folder = (path / "..data").resolve() if (path / "..data").exists() else path
    for name in aksk.FIELDS:
        file = folder / name
        if name in {"ak", "sk"} or file.exists():
            found[name] = _read_text(file)
    return found


def _read_text(file: pathlib.Path) -> secret.Secret:
    with file.open("rb") as opened:
        return secret.Secret(opened.read(_MAX_FILE_BYTES).decode("utf-8", "replace"))


def _now_s() -> float:
    return asyncio.get_running_loop().time()
