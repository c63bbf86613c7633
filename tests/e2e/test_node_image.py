"""The virtual node's image as a pod of a stack that serves it."""

import json
import pathlib

import pytest
from line import eventually, new_line, pod

from kci.stack import settings
from kci.stack.images import catalogue, virtualkubelet

pytestmark = [pytest.mark.e2e, pytest.mark.guide("form image")]

# As deploy/ has it.
CONFINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    # Built out here: in the stack's network namespace there is no package index.
    cache = pathlib.Path(settings.read_machine().cache_dir)
    catalogue.ensure_store(tmp_path_factory.mktemp("store"), cache, print, [catalogue.NODE])
    stack = new_line()
    try:
        stack.kci("up", "--detach", "--netns", stack.netns, "--node-image")
        yield stack
    finally:
        stack.kci("down", "--purge", check=False)


def test_the_image_runs_as_a_pod_by_our_name_and_the_guides_without_rights(stack):
    names = {"ours": virtualkubelet.OWN_REFERENCE, "guides": virtualkubelet.GUIDE_REFERENCE}
    for name, image in names.items():
        container = {"image": image, "args": ["--help"], "securityContext": CONFINED}
        stack.apply(
            pod(name, container=container, restartPolicy="Never", securityContext={"runAsNonRoot": True})
        )
    for name in names:
        eventually(lambda name=name: phase(stack, name) == "Succeeded", what=f"{name} has ended")
        assert stack.kubectl("logs", name).startswith("usage: virtual-kubelet")


def phase(stack, name):
    seen = stack.get("pod", name)["status"]
    assert seen["phase"] != "Failed", json.dumps(seen)
    return seen["phase"]
