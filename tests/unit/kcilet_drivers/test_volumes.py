"""Folders, contents and sub-paths on a real file system, without mounts."""

import os
import pathlib
import stat
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kci.kcilet import ports
from kci.kcilet.drivers.volumes import atomic, folders, kernel, trees
from kci.kube import models

POD = models.PodUid("11111111-2222")


def volume(**contents):
    files = tuple(
        ports.VolumeFile(path=path.replace("__", "/"), content=text.encode())
        for path, text in contents.items()
    )
    return ports.ContentVolume(name="config", files=files, in_memory=False)


@pytest.fixture
def pods(tmp_path):
    return folders.PodFolders(tmp_path)


@pytest.fixture
def root(pods):
    return pathlib.Path(pods.host_path(POD, "config"))


def shown(root):
    """Everything a container sees, but our own names."""
    found = {}
    for entry in root.iterdir():
        if not entry.name.startswith(".."):
            for path in [entry, *entry.rglob("*")]:
                if path.is_file():
                    found[str(path.relative_to(root))] = path.read_text()
    return found


class Seen(NamedTuple):
    content: bytes
    inode: int
    mode: int


def file_at(path):
    return Seen(pathlib.Path(path).read_bytes(), pathlib.Path(path).stat().st_ino, mode_of(path))


def exchange(path, make):
    pathlib.Path(path).unlink()
    make(path)


def mode_of(path):
    return stat.S_IMODE(pathlib.Path(path).stat().st_mode)


async def test_content_is_shown_through_one_link(pods, root):
    await pods.ensure_volumes(POD, [volume(key="1", user__name="a", user__mail="b")])
    assert shown(root) == {"key": "1", "user/name": "a", "user/mail": "b"}
    assert (root / "key").readlink() == pathlib.Path("..data/key")
    assert (root / "..data").resolve().parent == root


async def test_new_content_takes_the_place_of_all_the_old(pods, root):
    await pods.ensure_volumes(POD, [volume(key="1", old="x", user__name="a")])
    await pods.ensure_volumes(POD, [volume(key="2", user="now a file")])
    assert shown(root) == {"key": "2", "user": "now a file"}
    assert len(list(root.glob("..2*"))) == 1


async def test_the_same_content_changes_nothing(pods, root):
    await pods.ensure_volumes(POD, [volume(key="1")])
    before = (root / "..data").readlink()
    await pods.ensure_volumes(POD, [volume(key="1")])
    assert (root / "..data").readlink() == before


async def test_what_a_crash_left_is_put_right(pods, root):
    await pods.ensure_volumes(POD, [volume(key="1")])
    (root / "..data" / "key").write_text("")
    (root / "..2026_01_01_00_00_00.dead").mkdir()
    (root / "..2026_01_01_00_00_00.dead" / "key").write_text("half")
    (root / "..data_tmp").symlink_to("nowhere")
    (root / "stray").write_text("?")
    await pods.ensure_volumes(POD, [volume(key="1")])
    assert shown(root) == {"key": "1"}
    assert len(list(root.iterdir())) == 3


async def test_a_group_may_read_what_its_volume_holds(pods, root):
    group = os.getgid()
    file = ports.VolumeFile(path="a/key", content=b"1", mode=0o400)
    await pods.ensure_volumes(POD, [ports.ContentVolume("config", (file,), in_memory=False, fs_group=group)])
    assert mode_of(root / "a" / "key") == 0o440
    assert mode_of(root / "..data" / "a") == 0o2755
    await pods.ensure_volumes(POD, [ports.EmptyDir("scratch", fs_group=group)])
    assert mode_of(pods.host_path(POD, "scratch")) == 0o2777


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "..data", "..x/y", "./..data", "", "a\0b", "x" * 300]
)
async def test_a_path_that_leaves_the_volume_is_refused(pods, root, path):
    file = ports.VolumeFile(path=path, content=b"")
    with pytest.raises(ports.DriverError, match="cannot prepare volume 'config'"):
        await pods.ensure_volumes(POD, [ports.ContentVolume("config", (file,), in_memory=False)])


@given(st.text(st.sampled_from("a./\0"), max_size=12))
def test_a_path_that_is_taken_stays_below(path):
    try:
        atomic.check_path(path)
    except ValueError:
        return
    target = os.path.normpath(f"/volume/{path}")
    assert target.startswith("/volume/")
    assert not target.startswith("/volume/..")


async def test_a_file_of_ours_keeps_its_inode(pods):
    before = file_at(await pods.ensure_file(POD, "hosts", b"old and longer"))
    after = file_at(await pods.ensure_file(POD, "hosts", b"new", mode=0o666))
    assert (before.content, after.content) == (b"old and longer", b"new")
    assert after.inode == before.inode
    assert after.mode == 0o666
    assert await pods.read_file(POD, "hosts", limit=2) == b"ew"


async def test_only_a_regular_file_is_read_back(pods):
    path = await pods.ensure_file(POD, "log", b"x")
    assert await pods.read_file(POD, "absent", limit=10) == b""
    exchange(path, os.mkfifo)
    assert await pods.read_file(POD, "log", limit=10) == b""
    exchange(path, lambda link: pathlib.Path(link).symlink_to("/etc/hostname"))
    with pytest.raises(ports.DriverError):
        await pods.read_file(POD, "log", limit=10)


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden", "x\0"])
async def test_a_name_never_becomes_another_path(pods, name):
    with pytest.raises(ports.DriverError):
        await pods.ensure_file(POD, name, b"")
    with pytest.raises(ports.DriverError):
        await pods.remove_volumes(models.PodUid(name))


async def test_pods_are_listed_until_they_are_removed(pods):
    assert await pods.list_pods() == []
    await pods.ensure_volumes(POD, [volume(key="1"), ports.EmptyDir("scratch")])
    assert await pods.list_pods() == [POD]
    for _ in range(2):
        await pods.remove_volumes(POD)
    assert await pods.list_pods() == []


def test_a_tree_of_any_depth_is_removed(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deeper", dir_fd=here)
        os.symlink("/etc", "link", dir_fd=here)
        following = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = following
    os.close(here)
    trees.remove(top)
    assert not top.exists()
    trees.remove(top)


@pytest.mark.parametrize("open_beneath", [kernel.open_beneath, kernel.walk_beneath])
class TestOpenBeneath:
    @pytest.fixture
    def root(self, tmp_path):
        (tmp_path / "root" / "a" / "b").mkdir(parents=True)
        (tmp_path / "root" / "out").symlink_to(tmp_path)
        (tmp_path / "root" / "up").symlink_to("..")
        (tmp_path / "secret").write_text("x")
        descriptor = os.open(tmp_path / "root", os.O_RDONLY)
        yield descriptor
        os.close(descriptor)

    def test_what_lies_below_is_opened(self, root, open_beneath):
        os.close(open_beneath(root, "a/./b", os.O_PATH))

    @pytest.mark.parametrize("path", ["out", "out/secret", "up", "up/secret", "../secret", "a/../../secret"])
    def test_nothing_else_is(self, root, open_beneath, path):
        with pytest.raises(OSError):
            open_beneath(root, path, os.O_RDONLY)
