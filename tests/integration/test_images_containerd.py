"""The images we build, pulled and run by a real containerd."""

import sys
import time

import pytest

from kci.stack.images import catalogue

pytestmark = pytest.mark.integration

BUSYBOX = "docker.io/library/busybox:latest"
NGINX = "docker.io/library/nginx:latest"
GET = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:80/', timeout=5).read().decode())"
# kubectl users expect these to be there.
ASK_SHELL = ("sh", "-c", "id -un && cat /etc/nginx/conf.d/default.conf")


@pytest.mark.parametrize("image", [image for recipe in catalogue.RECIPES for image in recipe.references])
def test_every_image_of_the_catalogue_can_be_pulled(containerd, image):
    containerd.pull(image)
    assert image in containerd.ctr("images", "list", "--quiet").split()


def test_an_image_that_the_store_lacks_is_refused_and_asked_nowhere_else(containerd):
    with pytest.raises(AssertionError, match="not found"):
        containerd.pull("docker.io/library/absent:latest")


def test_busybox_runs_its_commands(containerd):
    containerd.pull(BUSYBOX)
    answer = containerd.ctr(
        "run", "--rm", "--cgroup", f"{containerd.cgroup}/busybox", BUSYBOX, "test-busybox",
        "sh", "-c", "echo $(id -un) $(echo abc | tr a-c A-C)",
    )  # fmt: skip
    assert answer.strip() == "root ABC"


@pytest.fixture
def nginx(containerd):
    """nginx with containerd's default capabilities, in containerd's network namespace."""
    containerd.pull(NGINX)
    log = containerd.where.root / "nginx.log"
    containerd.ctr(
        "run", "--detach", "--net-host", "--cgroup", f"{containerd.cgroup}/nginx", "--log-uri", f"file://{log}",
        NGINX, "test-nginx",
    )  # fmt: skip
    yield log
    containerd.inside(
        "ctr",
        "--address",
        containerd.socket,
        "--namespace",
        "k8s.io",
        "task",
        "delete",
        "--force",
        "test-nginx",
        check=False,
    )
    containerd.ctr("containers", "delete", "test-nginx")


def test_nginx_answers_logs_to_its_output_and_has_a_shell(containerd, nginx):
    assert "Welcome to nginx!" in eventually(
        lambda: containerd.inside(sys.executable, "-c", GET, check=False)
    )
    assert '"GET / HTTP/1.1" 200' in eventually(lambda: _lines_with("GET", nginx))
    shell = containerd.ctr("task", "exec", "--exec-id", "shell", "test-nginx", *ASK_SHELL)
    assert shell.startswith("root\nserver {")


@pytest.mark.usefixtures("nginx")
def test_nginx_ends_in_order_on_its_stop_signal(containerd):
    eventually(lambda: containerd.inside(sys.executable, "-c", GET, check=False))
    containerd.ctr("task", "kill", "--signal", "SIGQUIT", "test-nginx")
    assert eventually(lambda: "STOPPED" in containerd.ctr("task", "list"))


def test_pause_ends_at_once_on_sigterm(containerd):
    containerd.pull(catalogue.PAUSE)
    containerd.ctr(
        "run",
        "--detach",
        "--null-io",
        "--cgroup",
        f"{containerd.cgroup}/pause",
        catalogue.PAUSE,
        "test-pause",
    )
    containerd.ctr("task", "kill", "--signal", "SIGTERM", "test-pause")
    assert eventually(lambda: "STOPPED" in containerd.ctr("task", "list"))
    containerd.ctr("task", "delete", "test-pause")
    containerd.ctr("containers", "delete", "test-pause")


def eventually(look, *, within_s=15):
    """What `look` says once it says something."""
    deadline = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"nothing within {within_s} s"
        time.sleep(0.05)
    return seen


def _lines_with(text, log):
    return "\n".join(line for line in log.read_text().splitlines() if text in line)
