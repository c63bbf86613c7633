"""The virtual node as an image: the same bytes twice, and a root file system in which the program runs."""

import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile

import needs
import pytest

from kci.stack import settings
from kci.stack.images import archive, catalogue, layout, virtualkubelet, wheels

pytestmark = [pytest.mark.integration, pytest.mark.guide("form image")]

USER = virtualkubelet.USER_ID
IMPORT_ALL = """
import importlib, pkgutil, kci, uvloop
print(len([importlib.import_module(one.name) for one in pkgutil.walk_packages(kci.__path__, "kci.")]))
"""
TRACED = """
import asyncio, os
from kci.kit import observing, tracing
async def main():
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    async with tracing.opened("virtual-kubelet", "1", os.environ) as tracer:
        print(tracer is not observing.NO_TRACER)
asyncio.run(main())
"""
AUTHORITIES = "import ssl; print(ssl.create_default_context().cert_store_stats()['x509_ca'])"


def build():
    return virtualkubelet.build(architecture=catalogue.architecture())


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """As a stack serves it; built only where no stack of this machine has it in its cache."""
    needs.demand("" if os.geteuid() == 0 else "only root may enter another root file system")
    store = tmp_path_factory.mktemp("store")
    catalogue.ensure_store(store, pathlib.Path(settings.read_machine().cache_dir), print, [catalogue.NODE])
    return layout.Layout(store).read(virtualkubelet.OWN_REFERENCE)


@pytest.fixture(scope="module")
def members(image):
    with tarfile.open(fileobj=io.BytesIO(image.layer.content)) as layer:
        return layer.getmembers()


@pytest.fixture(scope="module")
def root(image, tmp_path_factory):
    """The image's root file system, unpacked."""
    folder = tmp_path_factory.mktemp("root")
    # That user must come this far.
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    command = ["tar", "--extract", "--same-permissions", "--same-owner", "--directory", folder]
    subprocess.run(command, input=image.layer.content, check=True, timeout=120)
    return folder


def run(root, *command, check=True):
    """As the image's user, with the image's environment."""
    chroot = shutil.which("chroot", path=f"{os.defpath}:/usr/sbin:/sbin")
    return subprocess.run(
        [chroot, f"--userspec={USER}:{USER}", root, *command],
        env={"PATH": "/usr/local/bin:/usr/bin", "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"},
        capture_output=True, text=True, check=check, timeout=120,
    )  # fmt: skip


def test_two_builds_give_the_same_bytes(image):
    built = build()
    # What is kept may be of older packages: then it is no second build of the same.
    other = image if image.digest == built.image.digest else build().image
    assert other == built.image


def test_the_program_tells_its_flags_as_the_images_user(root):
    told = run(root, virtualkubelet.NAME, "--help").stdout
    assert told.startswith("usage: virtual-kubelet")
    assert {f"--{name}" for name in ("nodename", "cluster-dns", "disable-taint")} <= set(
        re.findall(r"--[a-z-]+", told)
    )


def test_what_is_wrong_is_said_in_a_sentence_and_not_by_a_missing_module(root):
    done = run(root, virtualkubelet.NAME, check=False)
    assert done.returncode == 1
    assert "KCI_REGION" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_module_of_ours_in_the_image_finds_what_it_imports(root):
    assert int(run(root, "/usr/bin/python3", "-IBc", IMPORT_ALL).stdout) > 50


def test_traces_can_be_sent_from_it(root):
    # After a line of the log.
    assert run(root, "/usr/bin/python3", "-IBc", TRACED).stdout.splitlines()[-1] == "True"


def test_the_authorities_of_public_servers_are_known(root):
    assert int(run(root, "/usr/bin/python3", "-Bc", AUTHORITIES).stdout) > 100


def test_its_user_has_no_rights_and_owns_one_folder(image, members):
    config = json.loads(image.config.content)["config"]
    assert config["User"] == f"{USER}:{USER}"
    assert [one.name for one in members if one.uid == USER] == [virtualkubelet.HOME]
    assert config["WorkingDir"] == f"/{virtualkubelet.HOME}"
    for one in members:
        assert not one.mode & 0o6000, f"{one.name} lends rights"
        assert one.issym() or not one.mode & 0o002 or one.name == "tmp", f"{one.name} is open to all"


def test_there_is_no_shell_in_it(members):
    assert not [one.name for one in members if re.search(r"(^|/)(ba|da|z)?sh$|/busybox$", one.name)]


def test_its_labels_say_what_it_is(image):
    labels = json.loads(image.config.content)["config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "virtual-kubelet"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_bill_of_materials_lists_every_package_that_is_in_it(root):
    listed = {
        one["name"]: one for one in json.loads((root / virtualkubelet.SBOM_PATH).read_bytes())["packages"]
    }
    from_debian = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
    site = next((root / "usr/local/lib").glob("python3.*/dist-packages"))
    from_index = {
        wheels.canonical(path.name.rsplit("-", 1)[0])
        for path in (p.with_suffix("") for p in site.glob("*.dist-info"))
    }
    assert {"libc6", "ca-certificates"} < from_debian
    assert set(virtualkubelet.ROOTS) <= from_index
    assert listed.keys() == {virtualkubelet.NAME} | from_debian | from_index
    locked = wheels.lock_text()
    for name in from_index:
        assert listed[name]["checksums"][0]["checksumValue"] in locked


def test_containerd_pulls_it_by_our_name_and_the_guides_and_runs_it(containerd, image):
    store = layout.Layout(containerd.where.registry)
    for reference in virtualkubelet.REFERENCES:
        store.add(reference, image, source="test")
        containerd.pull(reference)
    told = containerd.ctr(
        "run", "--rm", "--read-only", "--cgroup", f"{containerd.cgroup}/node", virtualkubelet.GUIDE_REFERENCE,
        "test-node", virtualkubelet.NAME, "--help",
    )  # fmt: skip
    assert told.startswith("usage: virtual-kubelet")


def test_containerd_imports_the_archive_under_both_names(containerd, image, tmp_path):
    path = tmp_path / "node.tar"
    path.write_bytes(archive.archive(image, virtualkubelet.REFERENCES))
    containerd.ctr("images", "import", str(path))
    listed = containerd.ctr("images", "list", "--quiet").split()
    assert set(virtualkubelet.REFERENCES) <= set(listed)
