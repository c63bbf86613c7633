"""Keys that change: taken when they come, kept while nothing better can be read, told without being shown."""

import asyncio
import base64
import contextlib
import datetime
import functools

import pytest
import structlog
from fakes import kube_api, virtual_time

from kci.client import errors
from kci.kit import secret, tasks
from kci.kube import errors as kube_errors
from kci.kube import resources
from kci.provider import credentials

START = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
NO_KEY = secret.Secret("")
NAME = "user-temp-aksk"
CANARY = "canary-1f3a"


def on_virtual_time(test):
    @functools.wraps(test)
    def run(**given):
        with asyncio.Runner(loop_factory=virtual_time.VirtualLoop) as runner:
            runner.run(test(**given))

    return run


class Clock:
    """The wall clock of a test; it goes with the loop's."""

    def __init__(self):
        self._began_s = asyncio.get_running_loop().time()

    def now(self):
        return START + datetime.timedelta(seconds=asyncio.get_running_loop().time() - self._began_s)


def after(seconds):
    return (START + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def fields(name="AK1", **more):
    return {
        "ak": name,
        "sk": f"{CANARY}-{name}",
        "securityToken": f"{CANARY}-token",
        "cipher": "none",
        **more,
    }


class Api(kube_api.FakeApi):
    """Counts looks, which take a while."""

    def __init__(self):
        super().__init__()
        self.looks = 0
        self.look_takes_s = 0.0

    async def get(self, resource, name, *, namespace=""):
        self.looks += 1
        await asyncio.sleep(self.look_takes_s)
        return await super().get(resource, name, namespace=namespace)


class World:
    def __init__(self):
        self.api = Api()
        self.told = []

    async def put(self, resource=resources.CONFIG_MAPS, **data):
        try:
            await self.api.patch(resource, NAME, {"data": data}, namespace="kube-system")
        except kube_errors.NotFoundError:
            await self.api.create(
                resource, {"metadata": {"name": NAME}, "data": data}, namespace="kube-system"
            )

    def source(self, *kinds):
        references = [credentials.Reference(kind, NAME) for kind in kinds or (resources.CONFIG_MAPS,)]
        return credentials.Cluster(
            self.api, references, cipher_key=NO_KEY, clock=Clock(), on_trouble=self.told.append
        )

    @contextlib.asynccontextmanager
    async def following(self, *kinds):
        source = self.source(*kinds)
        async with tasks.background("credentials", source.run()):
            yield source


@pytest.fixture
def world():
    return World()


async def used(source):
    return (await source.get()).access_key


async def until_used(source, name):
    async with asyncio.timeout(5):
        while await used(source) != name:  # noqa: ASYNC110  (the clock is virtual)
            await asyncio.sleep(0.1)


@pytest.mark.requirement("R58")
@pytest.mark.guide("env TEMP_AKSK_CM")
@on_virtual_time
async def test_keys_that_cannot_be_read_are_not_said_to_be_none():
    world = World()
    await world.put(**fields())
    world.api.change(resources.CONFIG_MAPS, NAME, namespace="kube-system", data="no map")
    async with world.following() as source, asyncio.timeout(60):
        while not world.told:  # noqa: ASYNC110  (the clock is virtual)
            await asyncio.sleep(0.1)
        assert "not as expected" in world.told[0]
        await world.put(**fields())
        await until_used(source, "AK1")
    assert not [text for text in world.told if "there is none" in text]


@on_virtual_time
async def test_keys_are_there_for_the_first_call_and_new_ones_for_the_next(world):
    await world.put(**fields(expired_at=after(3600)))
    async with world.following() as source:
        found = await source.get()
        assert found.access_key == "AK1"
        assert found.secret_key.reveal() == f"{CANARY}-AK1"
        assert found.security_token.reveal() == f"{CANARY}-token"
        await world.put(**fields("AK2", expired_at=after(7200)))
        await until_used(source, "AK2")
    assert world.told == []


@on_virtual_time
async def test_without_keys_a_call_says_what_to_do_and_the_next_has_them(world):
    async with world.following() as source:
        with pytest.raises(errors.MissingCredentialsError) as caught:
            await source.get()
        for part in ("ConfigMap kube-system/user-temp-aksk", "there is none", "securityToken", "watch it"):
            assert part in str(caught.value)
        await asyncio.sleep(30)
        assert len(world.told) == 1, "it is told once"
        await world.put(**fields(expired_at=after(3600)))
        await asyncio.sleep(0.1)
        assert await used(source) == "AK1"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"ak": ""}, "ak is missing"),
        ({"sk": None}, "sk is missing"),
        ({"cipher": "aes256+base64"}, "AKSK_CIPHER_KEY"),
        ({"expired_at": "soon"}, "expired_at is no time"),
    ],
)
@on_virtual_time
async def test_bad_content_leaves_the_old_keys_until_they_end(world, data, words):
    await world.put(**fields(expired_at=after(600)))
    async with world.following() as source:
        assert await used(source) == "AK1"
        await world.put(**{**fields("AK2", expired_at=after(9000)), **data})
        await asyncio.sleep(300)
        assert await used(source) == "AK1"
        assert words in world.told[0]
        assert NAME in world.told[0]
        await asyncio.sleep(299)
        assert await used(source) == "AK1", "the last resort, up to the end"
        await asyncio.sleep(2)
        with pytest.raises(errors.MissingCredentialsError, match=words):
            await source.get()
        await world.put(**fields("AK3", expired_at=after(9000)))
        await asyncio.sleep(0.1)
        assert await used(source) == "AK3"


@on_virtual_time
async def test_an_end_that_nobody_can_read_is_passed_over_at_the_first_read_only(world):
    await world.put(**fields(expired_at="soon"))
    source = world.source()
    assert await used(source) == "AK1"
    assert "no end" in world.told[0]


@on_virtual_time
async def test_a_deleted_object_and_a_cluster_that_is_away_leave_the_keys(world):
    await world.put(**fields(expired_at=after(600)))
    async with world.following() as source:
        assert await used(source) == "AK1"
        await world.api.delete(resources.CONFIG_MAPS, NAME, namespace="kube-system")
        await asyncio.sleep(1)
        assert await used(source) == "AK1"
        assert "there is none" in world.told[0]
    world.api.failures = [kube_errors.UnreachableError("cannot reach it")] * 100
    await asyncio.sleep(560)
    assert await used(source) == "AK1"


@pytest.mark.requirement("R58")
@on_virtual_time
async def test_within_the_margin_calls_look_for_others_by_themselves(world):
    """No watch runs here: a look alone finds the new keys, before the old ones end."""
    await world.put(**fields(expired_at=after(600)))
    source = world.source()
    assert await used(source) == "AK1"
    await world.put(**fields("AK2", expired_at=after(6000)))
    await asyncio.sleep(539)
    assert await used(source) == "AK1", "the margin is a minute"
    await asyncio.sleep(2)
    assert await used(source) == "AK2"


@on_virtual_time
async def test_many_calls_cause_one_look(world):
    await world.put(**fields(expired_at=after(30)))
    source = world.source()
    world.api.look_takes_s = 0.5
    assert set(await tasks.wait_all([used(source) for _ in range(50)], name="call")) == {"AK1"}
    assert world.api.looks == 1
    old = await source.get()
    assert world.api.looks == 1, "not again so soon"
    await world.put(**fields("AK2", expired_at=after(6000)))
    found = await tasks.wait_all([source.replace(old) for _ in range(50)], name="refused")
    assert {keys.access_key for keys in found} == {"AK2"}
    assert world.api.looks == 2
    assert (await source.replace(old)).access_key == "AK2"
    assert world.api.looks == 2, "others than the refused ones are there already"


@on_virtual_time
async def test_refused_keys_come_back_when_there_are_no_others(world):
    await world.put(**fields(expired_at=after(6000)))
    source = world.source()
    keys = await source.get()
    assert await source.replace(keys) == keys
    world.api.failures = [kube_errors.ForbiddenError("cannot get it: forbidden")]
    assert await source.replace(keys) == keys


@on_virtual_time
async def test_a_look_that_takes_too_long_is_given_up(world):
    await world.put(**fields(expired_at=after(600)))
    world.api.look_takes_s = 3600
    source = world.source()
    with pytest.raises(errors.MissingCredentialsError, match="no answer within"):
        await source.get()


@on_virtual_time
async def test_what_may_not_be_read_is_said_with_the_remedy(world):
    world.api.failures = [kube_errors.ForbiddenError("cannot get configmaps: forbidden", code=403)] * 2
    async with world.following() as source:
        with pytest.raises(errors.MissingCredentialsError, match=r"forbidden.*get, list and watch"):
            await source.get()


@on_virtual_time
async def test_a_secret_counts_while_the_config_map_has_no_good_keys(world):
    secret_data = {name: base64.b64encode(text.encode()).decode() for name, text in fields("AKS").items()}
    await world.put(resources.SECRETS, **secret_data)
    async with world.following(resources.CONFIG_MAPS, resources.SECRETS) as source:
        assert await used(source) == "AKS"
        assert world.told == [], "one of two is enough"
        await world.put(**fields(expired_at=after(600)))
        await until_used(source, "AK1")
        await asyncio.sleep(600)
        assert await used(source) == "AKS"


@on_virtual_time
async def test_an_older_state_never_replaces_a_newer_one(world):
    """A look is ahead of a watch that lags."""
    await world.put(**fields("AK1", expired_at=after(6000)))
    old = await world.api.get(resources.CONFIG_MAPS, NAME, namespace="kube-system")
    await world.put(**fields("AK2", expired_at=after(6000)))
    source = world.source()
    assert await used(source) == "AK2"
    source._followed[0]._note(old)
    assert await used(source) == "AK2"


@on_virtual_time
async def test_nothing_secret_is_logged(world):
    with structlog.testing.capture_logs() as logged:
        await world.put(**fields(expired_at=after(600)))
        async with world.following() as source:
            await used(source)
            for data in ({"cipher": "aes"}, {"expired_at": "soon"}, {"sk": ""}):
                await world.put(**{**fields("AK2"), **data})
                await asyncio.sleep(1)
    text = repr(logged) + repr(world.told) + repr(source) + repr(vars(source))
    assert len(world.told) == 3
    assert "credentials taken" in text
    assert CANARY not in text


# ---- folders


def write(folder, **data):
    folder.mkdir(exist_ok=True)
    for name, text in data.items():
        (folder / name).write_text(f"{text}\n")


def folder_source(path):
    return credentials.Folder(path, cipher_key=NO_KEY, clock=Clock())


async def test_a_folder_is_read_again_when_its_files_change(tmp_path):
    folder = tmp_path / "aksk"
    source = folder_source(folder)
    with pytest.raises(errors.MissingCredentialsError, match=r"cannot read .*ak: No such file"):
        await source.get()
    write(folder, ak="AK1", sk="SK1")
    found = await source.get()
    assert (found.access_key, found.security_token) == ("AK1", None)
    write(folder, ak="AK2", sk="SK2", securityToken="T", expired_at=after(600))
    found = await source.get()
    assert (found.access_key, found.security_token) == ("AK2", secret.Secret("T"))
    assert "SK2" not in repr(vars(source))
    write(folder, expired_at="soon", ak="AK3")
    assert await used(source) == "AK2", "an end that cannot be read is an error here"
    (folder / "sk").unlink()
    assert await used(source) == "AK2"


async def test_a_bad_end_is_an_error_in_a_folder_from_the_start(tmp_path):
    write(tmp_path, ak="AK1", sk="SK1", expired_at="soon")
    with pytest.raises(errors.MissingCredentialsError, match="expired_at is no time"):
        await folder_source(tmp_path).get()


async def test_one_file_may_hold_all(tmp_path):
    file = tmp_path / "aksk"
    file.write_text('ak: AK1\nsk: "SK1"\n')
    source = folder_source(file)
    assert await used(source) == "AK1"
    file.write_text('{"ak": "AK2", "sk": "SK2"}')
    assert await used(source) == "AK2"


async def test_a_mounted_object_that_is_swapped_is_never_read_half(tmp_path):
    """As a kubelet swaps a ConfigMap's files: by one link, while others read."""
    for number in (1, 2):
        write(tmp_path / f"..v{number}", ak=f"AK{number}", sk=f"{CANARY}-AK{number}")
    data = tmp_path / "..data"
    data.symlink_to("..v1")
    for name in ("ak", "sk"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    source = folder_source(tmp_path)

    def swap():
        for number in range(400):
            fresh = tmp_path / "..new"
            fresh.symlink_to(f"..v{number % 2 + 1}")
            fresh.replace(data)

    async with tasks.Tasks() as group:
        swapping = group.spawn("swap", tasks.in_thread(swap))
        seen = set()
        while not swapping.done():
            found = await source.get()
            assert found.secret_key.reveal() == f"{CANARY}-{found.access_key}"
            seen.add(found.access_key)
    assert seen
