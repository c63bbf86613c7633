import zipfile

import pytest

from kci.kit import errors
from kci.stack.images import wheels

LOCK = """\
Some_Thing==1.2 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
other==3 ; sys_platform == 'win32' \\
    --hash=sha256:cc
"""


def test_a_lock_file_is_taken_apart_by_package_with_hashes_and_markers():
    assert wheels.locked(LOCK) == {
        "some-thing": "Some_Thing==1.2 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n",
        "other": "other==3 ; sys_platform == 'win32' \\\n    --hash=sha256:cc\n",
    }


def test_the_repositorys_lock_file_names_what_the_image_is_made_of():
    assert {"aiohttp", "cryptography", "msgspec", "pyyaml"} < wheels.locked(wheels.lock_text()).keys()


def test_a_root_that_is_not_locked_is_refused(tmp_path):
    with pytest.raises(errors.UserError, match="absent"):
        wheels.download(["absent"], {}, tmp_path, python="3.11", architecture="amd64")


def wheel(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name in members:
            archive.writestr(name, name)
    return wheels.Wheel("tool", "1", path, "", ())


def test_a_wheels_modules_lie_in_the_site_and_its_programs_nowhere(tmp_path):
    members = [
        "tool/__init__.py", "tool-1.data/platlib/fast.so", "tool-1.data/scripts/tool",
        "tool-1.dist-info/RECORD",
    ]  # fmt: skip
    found = wheels.entries(wheel(tmp_path / "tool.whl", members), "site")
    assert [entry.path for entry in found] == [
        "site/tool/__init__.py", "site/fast.so", "site/tool-1.dist-info/RECORD",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["/etc/passwd", "tool/../../etc/passwd"])
def test_a_wheel_that_leads_out_of_itself_is_refused(tmp_path, name):
    with pytest.raises(errors.UserError, match="leads out of it"):
        wheels.entries(wheel(tmp_path / "tool.whl", [name]), "site")
